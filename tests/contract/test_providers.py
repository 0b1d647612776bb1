"""Execution providers. No GPU is needed: the seam to ONNX Runtime is shown, not what lies behind it."""

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
    """A machine with a driver and all libraries."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(providers, "_has_nvidia_driver", lambda: True)
    monkeypatch.setattr(providers, "missing", lambda _name: "")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, dict[str, str]]]:
    """What each session was opened with: providers, the first before the others, and their options."""
    calls: list[dict[str, dict[str, str]]] = []
    real = ort.InferenceSession

    def start(graph: Path, options: Any, providers: list[Any]) -> Any:
        named = dict((one, {}) if isinstance(one, str) else one for one in providers)
        calls.append(named)
        session = real(graph, options, providers=[CPU])
        ends = {"get_inputs": session.get_inputs, "get_outputs": session.get_outputs}
        return SimpleNamespace(get_providers=lambda: list(named), disable_fallback=lambda: None, **ends)

    monkeypatch.setattr(ort, "InferenceSession", start)
    return calls


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize(("provider", "name"), [("auto", CUDA), ("cuda", CUDA), ("tensorrt", TENSORRT), ("cpu", CPU)])
def test_a_setting_means_a_provider(provider: Provider, name: str) -> None:
    """Each word has its provider; `auto` takes CUDA where there is a driver, TensorRT only who asks for it."""
    assert providers.choose(provider) == name


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_what_is_asked_for_and_not_there_is_an_error(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which of build, driver and library is missing, and the CPU does not take over in silence."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    monkeypatch.setattr(providers, "_has_nvidia_driver", lambda: True)
    with pytest.raises(ProviderError, match="this build of ONNX Runtime has only CPUExecutionProvider"):
        providers.choose(provider)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(providers, "missing", lambda _name: "libnvinfer.so.10: cannot open shared object file")
    with pytest.raises(ProviderError, match=r"do not load: libnvinfer\.so\.10: cannot open"):
        providers.choose(provider)
    monkeypatch.setattr(providers, "_has_nvidia_driver", lambda: False)
    with pytest.raises(ProviderError, match="no NVIDIA driver"):
        providers.choose(provider)


def test_auto_without_a_driver_is_the_processor_and_with_one_never_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """No driver, no GPU; a driver without CUDA's libraries is a mistake of the set-up, and is told."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(providers, "_has_nvidia_driver", lambda: False)
    assert providers.choose("auto") == CPU
    monkeypatch.setattr(providers, "_has_nvidia_driver", lambda: True)
    monkeypatch.setattr(providers, "missing", lambda _name: "libcublasLt.so.13: cannot open shared object file")
    with pytest.raises(ProviderError, match="there is an NVIDIA driver, so CUDAExecutionProvider was chosen, but its"):
        providers.choose("auto")


def test_a_library_that_does_not_load_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own words are passed on; a library of another name is left to ONNX Runtime."""
    monkeypatch.setattr(ort, "preload_dlls", lambda: None)
    spoilt = tmp_path / "libprovider.so"
    spoilt.write_bytes(b"no library")
    monkeypatch.setattr(providers, "_LIBRARIES", {CUDA: (str(spoilt), "hint")})
    assert "libprovider.so" in providers.missing(CUDA)
    spoilt.unlink()
    assert providers.missing(CUDA) == ""


@pytest.mark.usefixtures("_gpu")
def test_a_provider_that_does_not_start_is_an_error(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime itself falls back with a warning; the service does not."""
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda graph, options, **_: real(graph, options, providers=[CPU]))
    with pytest.raises(ProviderError, match="CUDAExecutionProvider was asked for, but does not start"):
        Session(version / contract.GRAPH, contract.read(version), provider="cuda")


@pytest.mark.usefixtures("_gpu")
def test_cuda_is_set_up_for_batches_of_any_size(version: Path, started: list[dict[str, dict[str, str]]]) -> None:
    """No search over all algorithms for each new size, TF32, the CPU for what CUDA has not; graphs where asked for."""
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
def test_tensorrt_builds_one_engine_for_all_batches_and_keeps_it(
    version: Path, tmp_path: Path, started: list[dict[str, dict[str, str]]]
) -> None:
    """The profile spans batches of 1 to the largest; engines lie in a folder of the graph's own hash."""
    manifest = contract.read(version)
    Session(version / contract.GRAPH, manifest, provider="tensorrt", engine_cache=tmp_path)
    texts = reviews.publish(tmp_path / "texts")
    Session(texts / contract.GRAPH, contract.read(texts), provider="tensorrt", engine_cache=tmp_path)
    assert [list(call) for call in started] == [[TENSORRT, CUDA, CPU], [TENSORRT, CUDA, CPU]]
    pictures, tokens = (call[TENSORRT] for call in started)
    assert pictures["trt_engine_cache_path"] == str(tmp_path / manifest.files[contract.GRAPH][:16])
    assert (pictures["trt_profile_min_shapes"], pictures["trt_profile_max_shapes"]) == (
        "image:1x28x28x1",
        "image:256x28x28x1",
    )
    assert (tokens["trt_profile_min_shapes"], tokens["trt_profile_max_shapes"]) == ("tokens:1x1", "tokens:8x64")
    assert tokens["trt_engine_cache_path"] != pictures["trt_engine_cache_path"]


def test_tolerance_is_by_provider_and_precision() -> None:
    """Processors agree best, TF32 less, fewer bits least."""
    assert providers.tolerance(CPU, "float32") < providers.tolerance(CUDA, "float32") < providers.tolerance(CPU, "int8")
