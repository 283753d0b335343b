import sys

import pytest

import llmir

sys.path.insert(0, str(llmir.REPOSITORY / "perf"))
import make_model  # noqa: E402 (found through the line above)


class Models:
    """Random models and plans, made once per test session and shared by the tests that ask for the same."""

    def __init__(self, folder):
        self.folder = folder
        self.made = {}
        self.count = 0

    def _once(self, key, make):
        if key not in self.made:
            # A number of its own, also where an earlier one failed half-way.
            self.count += 1
            self.made[key] = make(self.folder / f"{self.count:03}")
        return self.made[key]

    def random(self, *words, seed=1, hf_type="F32", gguf_type="F32", part_bytes=4 << 30):
        """(Hugging Face folder, GGUF file) of a random model; `words` as make_model.py's SHAPE."""

        def make(folder):
            shape = make_model.load_shape(words)
            return folder, make_model.make_model(shape, seed, folder, True, True, hf_type, gguf_type, part_bytes)

        return self._once((words, seed, hf_type, gguf_type, part_bytes), make)

    def job(self, model, *options, tp=1, pp=1, dp=1):
        """A planned job for `model`."""

        def make(folder):
            folder.mkdir()
            path = llmir.plan(model, folder / "plan.fb", "--tp", tp, "--pp", pp, "--dp", dp, *options)
            return llmir.Job(path, tp * pp * dp, folder)

        return self._once((str(model), options, tp, pp, dp), make)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def smollm2():
    assert llmir.SMOLLM2.is_file(), f"{llmir.SMOLLM2} is missing; run launch/install.sh --model"
    return llmir.SMOLLM2
