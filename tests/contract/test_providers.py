"""Execution providers. No GPU is needed: the tests look at the calls to ONNX Runtime, not at what it does."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from contract import manifest as contract
from contract import providers
from contract.errors import ProviderError
from contract.providers import CPU, CUDA, TENSORRT, Provider
from contract.session import Session
from tests import reviews


@pytest.fixture
def _gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with an NVIDIA driver and all libraries."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(providers, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(providers, "load_error", lambda _name: "")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, dict[str, str]]]:
    """The providers of each session that was opened, in order, with their options."""
    calls: list[dict[str, dict[str, str]]] = []
    real = ort.InferenceSession

    def start(graph: Path, options: Any, providers: list[Any]) -> Any:
        named = dict((provider, {}) if isinstance(provider, str) else provider for provider in providers)
        calls.append(named)
        session = real(graph, options, providers=[CPU])
        ends = {"get_inputs": session.get_inputs, "get_outputs": session.get_outputs}
        return SimpleNamespace(get_providers=lambda: list(named), disable_fallback=lambda: None, **ends)

    monkeypatch.setattr(ort, "InferenceSession", start)
    return calls


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize(("provider", "name"), [("auto", CUDA), ("cuda", CUDA), ("tensorrt", TENSORRT), ("cpu", CPU)])
def test_a_setting_selects_a_provider(provider: Provider, name: str) -> None:
    """Each setting has its provider; `auto` selects CUDA if there is a driver, and never TensorRT."""
    assert providers.choose(provider) == name


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_available_is_an_error(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says whether the build, the driver or a library is missing; nothing falls back to the CPU."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(providers, "has_nvidia_driver", lambda: True)
    with pytest.raises(ProviderError, match=f"{provider}.*install requirements/serve-cuda.txt"):
        providers.choose(provider)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(providers, "load_error", lambda _name: "libnvinfer.so.10: cannot open shared object file")
    with pytest.raises(ProviderError, match=r"libnvinfer\.so\.10: cannot open"):
        providers.choose(provider)
    monkeypatch.setattr(providers, "has_nvidia_driver", lambda: False)
    with pytest.raises(ProviderError, match="no NVIDIA driver"):
        providers.choose(provider)


@pytest.mark.parametrize("has_driver", [False, True])
@pytest.mark.parametrize("is_for_cuda", [False, True])
def test_a_build_for_cuda_without_a_driver_is_noticed(
    is_for_cuda: bool, has_driver: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the files of the package, which need not be imported."""
    (tmp_path / "capi").mkdir()
    if is_for_cuda:
        (tmp_path / "capi/libonnxruntime_providers_cuda.so").touch()
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: spec)
    monkeypatch.setattr(providers, "has_nvidia_driver", lambda: has_driver)
    assert providers.has_unused_cuda() == (is_for_cuda and not has_driver)


def test_auto_selects_the_cpu_only_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver without CUDA's libraries is an error, since a GPU was meant to be used."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(providers, "has_nvidia_driver", lambda: False)
    assert providers.choose("auto") == CPU
    monkeypatch.setattr(providers, "has_nvidia_driver", lambda: True)
    monkeypatch.setattr(providers, "load_error", lambda _name: "libcublasLt.so.13: cannot open shared object file")
    with pytest.raises(
        ProviderError, match=r"CUDAExecutionProvider.*an NVIDIA driver is installed.*libcublasLt\.so\.13"
    ):
        providers.choose("auto")


def test_a_library_that_does_not_load_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of the system is passed on; a library with another name is left to ONNX Runtime."""
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    damaged = tmp_path / "libprovider.so"
    damaged.write_bytes(b"no library")
    monkeypatch.setattr(providers, "_LIBRARIES", {CUDA: (str(damaged), "hint")})
    assert "libprovider.so" in providers.load_error(CUDA)
    damaged.unlink()
    assert providers.load_error(CUDA) == ""


@pytest.mark.usefixtures("_gpu")
def test_a_provider_that_does_not_start_is_an_error(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime falls back with a warning; the service does not."""
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda graph, options, **_: real(graph, options, providers=[CPU]))
    with pytest.raises(ProviderError, match=r"CUDAExecutionProvider .* does not start"):
        Session(version / contract.GRAPH, contract.read(version), provider="cuda")


@pytest.mark.usefixtures("_gpu")
def test_cuda_is_set_up_for_batches_of_any_size(version: Path, started: list[dict[str, dict[str, str]]]) -> None:
    """No search over algorithms for each size, TF32, the CPU for missing operators, and graphs if requested."""
    manifest = contract.read(version)
    session = Session(version / contract.GRAPH, manifest, provider="cuda")
    assert session.provider == CUDA
    Session(version / contract.GRAPH, manifest, provider="cuda", cuda_graphs=True)
    assert [list(call) for call in started] == [[CUDA, CPU], [CUDA, CPU]]
    assert started[0][CUDA] == {
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "1",
        "enable_cuda_graph": "0",
    }
    assert started[1][CUDA]["enable_cuda_graph"] == "1"


@pytest.mark.usefixtures("_gpu")
def test_tensorrt_builds_and_keeps_one_engine_for_all_batches(
    version: Path, tmp_path: Path, started: list[dict[str, dict[str, str]]]
) -> None:
    """The profile spans batches from 1 to the largest; engines are in a folder named by the hash of the graph."""
    manifest = contract.read(version)
    Session(version / contract.GRAPH, manifest, provider="tensorrt", engine_cache=tmp_path)
    texts = reviews.publish(tmp_path / "texts")
    Session(texts / contract.GRAPH, contract.read(texts), provider="tensorrt", engine_cache=tmp_path)
    assert [list(call) for call in started] == [[TENSORRT, CUDA, CPU], [TENSORRT, CUDA, CPU]]
    images, tokens = (call[TENSORRT] for call in started)
    assert images["trt_engine_cache_path"] == str(tmp_path / manifest.files[contract.GRAPH][:16])
    assert (images["trt_profile_min_shapes"], images["trt_profile_max_shapes"]) == (
        "image:1x28x28x1",
        "image:256x28x28x1",
    )
    assert (tokens["trt_profile_min_shapes"], tokens["trt_profile_max_shapes"]) == ("tokens:1x1", "tokens:8x64")
    assert tokens["trt_engine_cache_path"] != images["trt_engine_cache_path"]


def test_tolerance_is_by_provider_and_precision() -> None:
    """CPUs agree best, TF32 less, fewer bits least."""
    assert providers.tolerance(CPU, "float32") < providers.tolerance(CUDA, "float32") < providers.tolerance(CPU, "int8")
