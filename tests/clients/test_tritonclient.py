"""The Open Inference Protocol with tritonclient, as its users have it from PyPI, against a worker and through a front."""

import asyncio
import re
import subprocess
import sys
import unittest

import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from clients import BINARY, ROOT, Process, front, request, worker

FACES = "blazeface"


def picture():
    """Any picture of the model's size: what is seen in it is not looked at here."""
    return np.random.default_rng(7).integers(0, 256, (1, 256, 256, 3), np.uint8)


def tensor(values, binary=True, name="input", datatype="UINT8"):
    given = triton.InferInput(name, list(values.shape), datatype)
    given.set_data_from_numpy(values, binary_data=binary)
    return given


class OpenWorker(Process):
    """A worker as KServe runs it: models for whoever reaches it."""

    def __init__(self):
        super().__init__("worker", "--control", "127.0.0.1:0", "--media", "127.0.0.1:0", "--lanes", "2", "--oip", "127.0.0.1:0")
        self.models = re.search(r"models at http://(\S+)", self.line).group(1)


class Tritonclient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.open = OpenWorker()
        cls.worker = worker()
        cls.front = front(cls.worker)
        cls.addresses = {"worker": cls.open.models, "front": cls.front.address}

    @classmethod
    def tearDownClass(cls):
        for process in (cls.front, cls.worker, cls.open):
            process.__exit__()

    def everywhere(self, concurrency=1):
        for name, address in self.addresses.items():
            with self.subTest(at=name), triton.InferenceServerClient(address, concurrency=concurrency) as client:
                yield client

    def test_health_and_metadata(self):
        for client in self.everywhere():
            self.assertTrue(client.is_server_live())
            self.assertTrue(client.is_server_ready())
            self.assertTrue(client.is_model_ready(FACES))
            self.assertTrue(client.is_model_ready(FACES, "1"))
            self.assertFalse(client.is_model_ready("nonsense"))
            server = client.get_server_metadata()
            self.assertEqual((server["name"], server["extensions"]), ("vigie", ["binary_tensor_data"]))
            model = client.get_model_metadata(FACES)
            self.assertEqual((model["name"], model["versions"]), (FACES, ["1"]))
            self.assertEqual(model["inputs"], [{"name": "input", "datatype": "UINT8", "shape": [-1, 256, 256, 3]}])
            self.assertEqual([output["name"] for output in model["outputs"]],
                             ["Identity", "Identity_1", "Identity_2", "Identity_3"])
            self.assertEqual(client.get_model_metadata(FACES, "1")["versions"], ["1"])
            index = client.get_model_repository_index()
            states = {model["name"]: model["state"] for model in index}
            # Beside the default models there may be those that read text.
            self.assertLessEqual({"blazeface", "centernet", "faceres"}, set(states))
            self.assertEqual(set(states.values()), {"READY"})

    def test_every_way_to_send_and_to_receive_gives_the_same(self):
        values = picture()
        results = []
        for client in self.everywhere():
            for binary_in in (True, False):
                for outputs in (None, [triton.InferRequestedOutput("Identity_1", binary_data=False),
                                       triton.InferRequestedOutput("Identity")]):
                    for packing in ({}, {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"},
                                    {"request_compression_algorithm": "deflate", "response_compression_algorithm": "deflate"}):
                        result = client.infer(FACES, [tensor(values, binary_in)], outputs=outputs, request_id="a1",
                                              model_version="1", **packing)
                        response = result.get_response()
                        self.assertEqual((response["model_name"], response["model_version"], response["id"]), (FACES, "1", "a1"))
                        wanted = 4 if outputs is None else 2
                        self.assertEqual(len(response["outputs"]), wanted)
                        results.append((result.as_numpy("Identity"), result.as_numpy("Identity_1")))
        first = results[0]
        self.assertEqual((first[0].shape, first[1].shape, first[0].dtype), ((1, 512, 1), (1, 384, 1), np.float32))
        self.assertEqual(len(results), 24)
        for identity, identity_1 in results:
            np.testing.assert_array_equal(identity, first[0])
            np.testing.assert_allclose(identity_1, first[1], rtol=1e-6)

    def test_many_requests_at_once(self):
        values = picture()
        for client in self.everywhere(concurrency=16):
            alone = client.infer(FACES, [tensor(values)]).as_numpy("Identity")
            pending = [client.async_infer(FACES, [tensor(values)]) for _ in range(64)]
            for request in pending:
                np.testing.assert_allclose(request.get_result().as_numpy("Identity"), alone, atol=1e-5)

    def test_asyncio(self):
        async def ask(address):
            async with triton_aio.InferenceServerClient(address) as client:
                self.assertTrue(await client.is_model_ready(FACES))
                answers = await asyncio.gather(*(client.infer(FACES, [tensor(picture())]) for _ in range(8)))
                return [answer.as_numpy("Identity").shape for answer in answers]

        for name, address in self.addresses.items():
            with self.subTest(at=name):
                self.assertEqual(asyncio.run(ask(address)), [(1, 512, 1)] * 8)

    def test_what_is_wrong_is_said(self):
        values = picture()
        floats = values.astype(np.float32)
        cases = [
            (lambda client: client.infer("nonsense", [tensor(values)]), "404", "no model"),
            (lambda client: client.infer(FACES, [tensor(values)], model_version="9"), "404", "version"),
            (lambda client: client.infer(FACES, [tensor(floats, datatype="FP32")]), "400", "takes UINT8"),
            (lambda client: client.infer(FACES, [tensor(values[:, :100])]), "400", "shape"),
            (lambda client: client.infer(FACES, [tensor(values, name="x")]), "400", "none of the model's"),
            (lambda client: client.infer(FACES, [tensor(np.repeat(values, 9, 0))]), "413", "elements"),
            (lambda client: client.infer(FACES, [tensor(values)], outputs=[triton.InferRequestedOutput("x")]), "400", "output"),
            (lambda client: client.infer(FACES, [tensor(values)],
                                         outputs=[triton.InferRequestedOutput("Identity", class_count=3)]), "400", "classification"),
            (lambda client: client.get_model_metadata("nonsense"), "404", "no model"),
            (lambda client: client.load_model(FACES), "404", ""),
        ]
        for client in self.everywhere():
            for at, (ask, status, words) in enumerate(cases):
                with self.subTest(case=at), self.assertRaises(InferenceServerException) as raised:
                    ask(client)
                self.assertEqual(raised.exception.status(), status, raised.exception)
                self.assertIn(words, raised.exception.message())
            np.testing.assert_equal(client.infer(FACES, [tensor(values)]).as_numpy("Identity").shape, (1, 512, 1))

    def test_batches_run_as_their_pictures_do(self):
        values = np.concatenate([picture(), picture()[:, ::-1]])
        for client in self.everywhere():
            together = client.infer(FACES, [tensor(values)]).as_numpy("Identity")
            for row in range(2):
                alone = client.infer(FACES, [tensor(values[row : row + 1])]).as_numpy("Identity")
                np.testing.assert_allclose(together[row : row + 1], alone, atol=1e-4)

    def test_a_front_wants_a_token_where_it_has_secrets(self):
        session, admin = "s" * 40, "a" * 40
        with Process("signal", "--listen", "127.0.0.1:0", "--workers", self.worker.address,
                     environment={"VIGIE_SESSION_SECRET": session, "VIGIE_ADMIN_TOKEN": admin}) as guarded:
            refused = request(guarded.address, "GET", f"/v2/models/{FACES}")
            self.assertEqual(refused.status, 401)
            self.assertIn(b"token is needed", refused.body)
            with triton.InferenceServerClient(guarded.address) as client:
                self.assertTrue(client.is_server_live() and client.is_server_ready(), "probes want none")
                with self.assertRaisesRegex(InferenceServerException, "token is needed"):
                    client.infer(FACES, [tensor(picture())])
                headers = {"Authorization": f"Bearer {admin}"}
                self.assertEqual(client.infer(FACES, [tensor(picture())], headers=headers).as_numpy("Identity").shape, (1, 512, 1))
                minted = subprocess.run(
                    [BINARY, "token", "--subject", "me", "--tasks", "faces"], check=True, capture_output=True, text=True,
                    env={"VIGIE_SESSION_SECRET": session}).stdout.strip()
                headers = {"Authorization": f"Bearer {minted}"}
                self.assertTrue(client.is_model_ready(FACES, headers=headers))
                with self.assertRaisesRegex(InferenceServerException, "does not allow objects"):
                    client.get_model_metadata("centernet", headers=headers)

    def test_the_example_of_the_documentation_runs(self):
        text = (ROOT / "docs/oip.md").read_text()
        examples = re.findall(r"```python\n(.*?)```", text, re.S)
        self.assertTrue(examples)
        for example in examples:
            example = example.replace("127.0.0.1:8000", self.open.models).replace("127.0.0.1:8080", self.front.address)
            done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("Identity (1, 512, 1)", done.stdout)


if __name__ == "__main__":
    unittest.main(verbosity=2)
