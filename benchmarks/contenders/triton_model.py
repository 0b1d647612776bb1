"""The model.py of Triton's Python backend: one ONNX file on the CPU. Triton imports it in its own environment."""

import os
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """The class that the backend looks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the session on the file beside this one."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        file = os.path.join(args["model_repository"], args["model_version"], "model.onnx")  # noqa: PTH118 -- as Triton's examples
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer the requests of one dynamic batch in one run."""
        images = [
            triton.get_input_tensor_by_name(request, "image").as_numpy() for request in requests
        ]  # N x (n, H, W, C)
        rows = self._session.run(["probabilities"], {"image": np.concatenate(images)})[0]  # (sum of n, classes)
        ends = np.cumsum([len(part) for part in images])[:-1]
        return [triton.InferenceResponse([triton.Tensor("probabilities", part)]) for part in np.split(rows, ends)]
