"""ONNX Runtime's execution providers: which one a setting means on this machine, and the options it runs with.

What was asked for and is not there is an error that says why; nothing falls back to the processor in silence. ONNX
Runtime is imported where it is needed: the server, which asks for no more than `check`, seldom needs it.
"""

import ctypes
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

_MADE_FOR: dict[Precision, tuple[str, ...]] = {
    "float32": (CPU, CUDA, TENSORRT),
    "int8": (CPU,),
    "float16": (CUDA, TENSORRT),
}
_LIBRARIES = {
    CUDA: ("libonnxruntime_providers_cuda.so", "pip install onnxruntime-gpu[cuda,cudnn] brings CUDA 13 and cuDNN 9"),
    TENSORRT: ("libonnxruntime_providers_tensorrt.so", "TensorRT 10 must be on the path of shared libraries"),
}


def choose(provider: Provider) -> str:
    """ONNX Runtime's name of the execution provider that a setting means on this machine.

    Raises:
        ProviderError: a GPU was asked for, or `auto` found its driver, and the build, driver or libraries are missing.
    """
    if provider == "cpu" or (provider == "auto" and not _has_nvidia_driver()):
        return CPU
    import onnxruntime as ort  # noqa: PLC0415

    available = ort.get_available_providers()
    if provider == "auto" and CUDA not in available:
        return CPU
    name = TENSORRT if provider == "tensorrt" else CUDA
    why = f"{name} was asked for" if provider != "auto" else f"there is an NVIDIA driver, so {name} was chosen"
    if name not in available:
        raise ProviderError(f"{why}, but this build of ONNX Runtime has only {', '.join(available)}")
    if not _has_nvidia_driver():
        raise ProviderError(f"{why}, but there is no NVIDIA driver (libcuda.so.1) on this machine")
    gap = missing(name)
    if gap:
        raise ProviderError(f"{why}, but its libraries do not load: {gap}; {_LIBRARIES[name][1]}")
    return name


def suits(precision: Precision, provider: str) -> bool:
    """Whether a provider is one that graphs of a precision are made for: int8 for processors, float16 for GPUs."""
    return provider in _MADE_FOR[precision]


def check(provider: Provider, precision: Precision | Literal["auto"]) -> None:
    """Find out at the start whether what the settings ask for can be had.

    Raises:
        ProviderError: it cannot.
    """
    name = choose(provider)
    if precision != "auto" and not suits(precision, name):
        raise ProviderError(f"{precision} was asked for, but it is not made for {name}, which would run it slower")


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
        ModelRefused: the graph asks for more than ours do, or ONNX Runtime cannot load it.
    """
    import onnxruntime as ort  # noqa: PLC0415

    inspect(graph)
    gpu: list[tuple[str, dict[str, str]]] = []
    if name == TENSORRT:
        gpu.append((TENSORRT, _tensorrt_options(manifest, engine_cache.expanduser())))
    if name in {CUDA, TENSORRT}:
        gpu.append((CUDA, _cuda_options(cuda_graphs=cuda_graphs and name == CUDA)))
    try:
        session = ort.InferenceSession(graph, options, providers=[*gpu, CPU])
    except Exception as error:  # ONNX Runtime's own exceptions share no base class
        raise ModelRefused(f"{graph}: ONNX Runtime cannot load this graph: {error}") from error
    if session.get_providers()[0] != name:
        raise ProviderError(f"{name} was asked for, but does not start; see ONNX Runtime's log")
    session.disable_fallback()
    return session


def _cuda_options(*, cuda_graphs: bool) -> dict[str, str]:
    """Batches come in every size, and ONNX Runtime's default would try all convolution algorithms anew for each.

    https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
    """
    return {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "1",
        "enable_cuda_graph": str(int(cuda_graphs)),
    }


def _tensorrt_options(manifest: Manifest, cache: Path) -> dict[str, str]:
    """An engine takes minutes to build: it is kept, by the graph's hash, and made for all batches at once.

    The engines' own names do not depend on the weights, so each graph has a folder to itself.
    https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
    """
    folder = str(cache / manifest.files[GRAPH][:16])
    smallest, largest = _extremes(manifest)
    return {
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
        "trt_profile_min_shapes": smallest,
        "trt_profile_opt_shapes": largest,
        "trt_profile_max_shapes": largest,
    }


def _extremes(manifest: Manifest) -> tuple[str, str]:
    """The smallest and the largest input of a graph as TensorRT reads them, like `image:1x28x28x1`."""
    spec = manifest.input
    smallest, largest = spec.shape(1), spec.shape(manifest.max_batch, spec.max_length)
    return f"{spec.tensor}:{'x'.join(map(str, smallest))}", f"{spec.tensor}:{'x'.join(map(str, largest))}"


def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def missing(name: str) -> str:
    """Why a provider's library does not load, in the words of the system; empty where it does."""
    import onnxruntime as ort  # noqa: PLC0415

    path = Path(ort.__file__).parent / "capi" / _LIBRARIES[name][0]
    ort.preload_dlls()  # those that came as wheels
    try:
        if path.exists():  # elsewhere it has another name, and ONNX Runtime says what it misses
            ctypes.CDLL(str(path))
    except OSError as error:
        return str(error)
    return ""


def tolerance(name: str, precision: Precision) -> float:
    """How far a probability may be from the stored one, where graph and input are the same.

    CUDA computes float32 in TF32; processors differ in the last bits. A rounding that falls the other way moves what
    int8 gives by one step of a layer's scale: 0.0018 was seen between two kernels, and float16 has three digits.
    """
    if precision != "float32":
        return 1e-2
    return 1e-4 if name == CPU else 1e-3
