"""MLServer as its documentation teaches it: a custom runtime for each model, adaptive batching on.

Images are sent as BYTES in base64, texts as BYTES, many digits as a UINT8 tensor, all in JSON: over HTTP, MLServer
supports the Open Inference Protocol only in JSON. `python -m ... PORT FOLDER` writes the settings and then runs
`mlserver start FOLDER`.
"""

import json
import os
import socket
import sys
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse

from benchmarks.contenders import inference


class Classifier(MLModel):  # type: ignore[misc]
    """One model, named by its kind."""

    async def load(self) -> bool:
        """Load the model in the process that runs it."""
        self._model = inference.load_models()[self.name]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Predict the labels of a batch."""
        tensor = payload.inputs[0]
        if tensor.datatype == "UINT8":
            labels = self._model.run(NumpyCodec.decode_input(tensor).astype(np.uint8))
        elif tensor.name == "text":
            labels = self._model.predict([self._model.tokenize(text) for text in StringCodec.decode_input(tensor)])
        else:
            labels = self._model.classify(Base64Codec.decode_input(tensor))
        return InferenceResponse(model_name=self.name, outputs=[StringCodec.encode_output("label", labels)])


def main() -> None:
    """Write MLServer's settings and replace this process by MLServer."""
    port, folder = sys.argv[1], Path(sys.argv[2])
    settings = {
        "debug": False,
        "host": "127.0.0.1",
        "http_port": int(port),
        "grpc_port": _free_port(),
        "metrics_port": _free_port(),
        "metrics_dir": str(folder),
        "parallel_workers": int(os.environ["BENCH_WORKERS"]),
    }
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    for kind in json.loads(os.environ["BENCH_MODELS"]):
        (folder / kind).mkdir()
        model = {
            "name": kind,
            "implementation": "benchmarks.contenders.mlserver_batched.Classifier",
            "max_batch_size": 64,
            "max_batch_time": 0.001,
        }
        (folder / kind / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    program = str(Path(sys.executable).with_name("mlserver"))
    os.execv(program, [program, "start", str(folder)])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
