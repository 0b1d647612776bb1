"""The CUDA provider's options, checked by ONNX Runtime itself, without a GPU.

ONNX Runtime reads the options before it looks for a GPU. Its library needs one function of NVIDIA's driver to load, so
a library with this function alone takes the driver's place. TensorRT's options cannot be read without TensorRT's own
libraries, which are not installed.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from contract import providers
from tests.serving import ROOT

STUB = "int cuTensorMapEncodeTiled(void) { return 100; }"  # CUDA_ERROR_NO_DEVICE
TRY = """
import json, sys
import onnxruntime as ort
ort.preload_dlls()
try:
    ort.InferenceSession(sys.argv[1], providers=[("CUDAExecutionProvider", json.loads(sys.argv[2]))])
except Exception as error:
    print(error)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a library that takes the place of the driver."""
    if providers.CUDA not in ort.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no CUDA provider")
    if providers.has_nvidia_driver():
        pytest.skip("this machine has a driver; benchmarks/gpu.py runs the provider there")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler for the library that takes the place of the driver")
    folder = tmp_path_factory.mktemp("driver")
    (folder / "stub.c").write_text(STUB)
    command = [compiler, "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so.1", "stub.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder


def answer(driver: Path, options: dict[str, str]) -> str:
    """What ONNX Runtime says about a session with these options."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", TRY, str(ROOT / "models/digits/1/model.onnx"), json.dumps(options)],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver)}, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.stdout + done.stderr


@pytest.mark.parametrize("cuda_graphs", [False, True])
def test_onnx_runtime_accepts_our_options(driver: Path, cuda_graphs: bool) -> None:
    """It reads them all, and then finds no GPU."""
    said = answer(driver, providers.cuda_options(cuda_graphs=cuda_graphs))
    assert "cuda_call.cc" in said, said
    assert "provider_options_utils" not in said


@pytest.mark.parametrize(
    "wrong",
    [{"use_tf33": "1"}, {"use_tf32": "maybe"}, {"cudnn_conv_algo_search": "FASTEST"}, {"enable_cuda_graph": ""}],
)
def test_onnx_runtime_refuses_other_options(driver: Path, wrong: dict[str, str]) -> None:
    """An unknown name or value is refused, so the test above can fail."""
    assert "provider_options_utils" in answer(driver, {**providers.cuda_options(cuda_graphs=False), **wrong})
