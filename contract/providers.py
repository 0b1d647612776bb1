"""ONNX Runtime's execution providers: which one a setting selects on this machine, and the options it runs with.

A provider that is requested but not available is an error that says why; nothing falls back to the CPU silently. ONNX
Runtime is imported inside of functions, since the server process only calls `check`, which seldom needs it.
"""

import ctypes
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from contract.errors import ModelRefused, ProviderError
from contract.graph import inspect
from contract.manifest import GRAPH, Manifest, Precision

if TYPE_CHECKING:
    import onnxruntime as ort

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
ENGINE_CACHE = Path("~/.cache/convoke/tensorrt")

_PROVIDERS: dict[Precision, tuple[str, ...]] = {
    "float32": (CPU, CUDA, TENSORRT),
    "int8": (CPU,),
    "float16": (CUDA, TENSORRT),
}
_LIBRARIES = {
    CUDA: (
        "libonnxruntime_providers_cuda.so",
        "install CUDA 13 and cuDNN 9, for example with pip install onnxruntime-gpu[cuda,cudnn]",
    ),
    TENSORRT: ("libonnxruntime_providers_tensorrt.so", "install TensorRT 10 on the path of shared libraries"),
}


def choose(provider: Provider) -> str:
    """ONNX Runtime's name of the execution provider that a setting selects on this machine.

    Raises:
        ProviderError: a GPU is requested, or `auto` finds its driver, but the build, driver or libraries are missing.
    """
    if provider == "cpu" or (provider == "auto" and not has_nvidia_driver()):
        return CPU
    import onnxruntime as ort  # noqa: PLC0415

    available = ort.get_available_providers()
    if provider == "auto" and CUDA not in available:
        return CPU
    name = TENSORRT if provider == "tensorrt" else CUDA
    reason = "an NVIDIA driver is installed" if provider == "auto" else f"the setting is {provider!r}"
    selected = f"{name} was selected because {reason}"
    if name not in available:
        raise ProviderError(
            f"{selected}, but the installed ONNX Runtime is not built for it; install requirements/serve-cuda.txt "
            "instead of requirements/serve-cpu.txt"
        )
    if not has_nvidia_driver():
        raise ProviderError(f"{selected}, but this machine has no NVIDIA driver (libcuda.so.1)")
    fault = load_error(name)
    if fault:
        raise ProviderError(f"{selected}, but its libraries do not load: {fault}; {_LIBRARIES[name][1]}")
    return name


def suits(precision: Precision, provider: str) -> bool:
    """Whether graphs of a precision are made for a provider: int8 for CPUs, float16 for GPUs."""
    return provider in _PROVIDERS[precision]


def check(provider: Provider, precision: Precision | Literal["auto"]) -> None:
    """Check at the start that this machine has the provider and precision of the settings.

    Raises:
        ProviderError: it does not have them.
    """
    name = choose(provider)
    if precision != "auto" and not suits(precision, name):
        raise ProviderError(f"precision {precision!r} is not made for {name}, which would run it slower than float32")


def open_graph(
    graph: Path,
    manifest: Manifest,
    options: "ort.SessionOptions",
    name: str,
    *,
    engine_cache: Path = ENGINE_CACHE,
    cuda_graphs: bool = False,
) -> "ort.InferenceSession":
    """Load a graph for the provider of that name.

    Raises:
        ProviderError: the provider does not start.
        ModelRefused: the graph is harmful, or ONNX Runtime cannot load it.
    """
    import onnxruntime as ort  # noqa: PLC0415

    inspect(graph)
    gpu: list[tuple[str, dict[str, str]]] = []
    if name == TENSORRT:
        gpu.append((TENSORRT, _tensorrt_options(manifest, engine_cache.expanduser())))
    if name in {CUDA, TENSORRT}:
        gpu.append((CUDA, cuda_options(cuda_graphs=cuda_graphs and name == CUDA)))
    try:
        session = ort.InferenceSession(graph, options, providers=[*gpu, CPU])
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise ModelRefused(f"{graph}: ONNX Runtime cannot load this graph: {error}") from error
    if session.get_providers()[0] != name:
        raise ProviderError(f"{name} was selected, but it does not start; see ONNX Runtime's log")
    session.disable_fallback()
    return session


def cuda_options(*, cuda_graphs: bool) -> dict[str, str]:
    """Options for batches of any size: ONNX Runtime's default would try all convolution algorithms for each size.

    https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
    """
    return {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "1",
        "enable_cuda_graph": str(int(cuda_graphs)),
    }


def _tensorrt_options(manifest: Manifest, cache: Path) -> dict[str, str]:
    """Options that keep an engine, which takes minutes to build, and build one for batches of all sizes.

    The names of engine files do not depend on the weights, so each graph has a folder named by its hash.
    https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
    """
    folder = str(cache / manifest.files[GRAPH][:16])
    spec = manifest.input
    smallest = _profile(spec.tensor, spec.shape(1))
    largest = _profile(spec.tensor, spec.shape(manifest.max_batch, spec.max_length))
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
        "trt_profile_min_shapes": smallest,
        "trt_profile_opt_shapes": largest,
        "trt_profile_max_shapes": largest,
    }


def _profile(tensor: str, shape: tuple[int, ...]) -> str:
    """A shape as TensorRT reads it, like `image:1x28x28x1`."""
    return f"{tensor}:{'x'.join(map(str, shape))}"


def has_unused_cuda() -> bool:
    """Whether ONNX Runtime is built for CUDA, but no NVIDIA driver is visible. Imports nothing."""
    spec = importlib.util.find_spec("onnxruntime")
    folders = spec.submodule_search_locations if spec else None
    library = _LIBRARIES[CUDA][0]
    return any((Path(folder) / "capi" / library).exists() for folder in folders or ()) and not has_nvidia_driver()


NO_GPU = (
    "no GPU is visible, so the processors are used, although ONNX Runtime is built for CUDA: libcuda.so.1 of NVIDIA's "
    "driver is missing"
)
"""What is wrong if `has_unused_cuda`."""
GET_GPU = (
    "start the container with --gpus all, or request nvidia.com/gpu; CONVOKE_PROVIDER=cpu states that none is meant"
)


def has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def load_error(name: str) -> str:
    """Why a provider's library does not load, in the words of the system; empty if it loads."""
    import onnxruntime as ort  # noqa: PLC0415

    path = Path(ort.__file__).parent / "capi" / _LIBRARIES[name][0]
    ort.preload_dlls()  # those that were installed as wheels
    try:
        if path.exists():  # on other systems it has another name, and ONNX Runtime reports the error
            ctypes.CDLL(str(path))
    except OSError as error:
        return str(error)
    return ""


def tolerance(name: str, precision: Precision) -> float:
    """The largest difference between a probability and the stored one of the same graph and input.

    CUDA computes float32 in TF32; CPUs differ in the last bits. In int8, a value that is rounded the other way moves by
    one step of a layer's scale (0.0018 was seen between two kernels). float16 has three digits.
    """
    if precision != "float32":
        return 1e-2
    return 1e-4 if name == CPU else 1e-3
