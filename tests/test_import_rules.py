"""Who may import whom, and what no file may do."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data_prep", "trainer")
FILES = sorted([ROOT / "strict_json.py", *(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))])
CHECKED = sorted({*FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py"), *(ROOT / "tools").rglob("*.py")})
HEAVY = {"torch", "deepspeed", "transformers", "accelerate"}
WITHOUT_TORCH = (
    "batch", "batch_ramp", "config", "config_reference", "deepspeed_keys", "ds_config", "flops", "ledger", "lr_schedule",
    "metrics", "offload", "report", "run_folder", "state", "takedown_record", "tracing",
    "data/corpus", "data/mixture", "data/permutation",
    "hosts/disks", "hosts/launch_env", "hosts/port", "hosts/swap_folders",
    "parallel/plan_table", "parallel/topology", "parallel/traffic",
)  # fmt: skip
WITH_DEEPSPEED = {
    "trainer/engine.py", "trainer/checkpoint.py", "trainer/devices.py", "trainer/deepspeed_values.py",
    "trainer/model/pipeline.py", "trainer/model/tensor_parallel.py", "trainer/hosts/compiled_ops.py",
}  # fmt: skip


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at any place in it; `from a import b` as a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_the_two_halves_meet_in_the_shards_alone(path):
    half = path.relative_to(ROOT).parts[0]
    for name in imports(path):
        if half == "trainer" and name.startswith("data_prep"):
            assert name.startswith("data_prep.shards")
        if half != "trainer":
            assert not name.startswith("trainer")
        if half == "strict_json.py":
            assert not name.startswith("data_prep")
    if half == "data_prep":
        assert not top_level(path) & HEAVY


@pytest.mark.parametrize("path", sorted((ROOT / "data_prep" / "shards").glob("*.py")), ids=name_of)
def test_the_contract_needs_almost_nothing(path):
    allowed = {"numpy", "xxhash", "data_prep"} | {"remote.py": {"fsspec"}, "documents.py": {"pyarrow"}}.get(path.name, set())
    assert top_level(path) - sys.stdlib_module_names <= allowed
    assert all(name.startswith("data_prep.shards") for name in imports(path) if name.startswith("data_prep"))


def test_local_shards_need_no_fsspec():
    code = (
        "import sys, data_prep.shards as s; assert 'fsspec' not in sys.modules and 'data_prep.shards.remote' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_decisions_need_no_torch(module):
    assert not top_level(ROOT / "trainer" / f"{module}.py") & HEAVY


@pytest.mark.parametrize("path", sorted((ROOT / "trainer").rglob("*.py")), ids=name_of)
def test_deepspeed_stays_in_its_rooms(path):
    assert "deepspeed" not in top_level(path) or name_of(path) in WITH_DEEPSPEED


def test_layers_of_the_trainer():
    """Pure modules do not know the engine; only train and the sub-commands know everything."""
    above = {"engine", "checkpoint", "evaluation", "monitor", "export", "train"}
    below = [ROOT / "trainer" / f"{module}.py" for module in WITHOUT_TORCH] + sorted((ROOT / "trainer" / "data").glob("*.py"))
    for path in [*below, *sorted((ROOT / "trainer" / "model").glob("*.py"))]:
        assert not {name.split(".")[1] for name in imports(path) if name.startswith("trainer.")} & above, path
    for name in ("engine", "checkpoint", "evaluation", "monitor", "export"):
        assert "trainer.train" not in set(imports(ROOT / "trainer" / f"{name}.py"))


def test_siblings_do_not_know_each_other():
    for folder in ("sources", "dedup", "filters"):
        for path in set((ROOT / "data_prep" / folder).glob("*.py")) - {ROOT / "data_prep" / folder / "__init__.py"}:
            known = {name.split(".")[2] for name in imports(path) if name.startswith(f"data_prep.{folder}.")}
            shared = {"files", "page", "signals", "site_rules", "loose_json", "wikitext", "settings", "text", "linear_text"}
            shared |= {"archives", "fields", "file_kinds", "licences", "metadata"}
            shared |= {"tables", "text_encoding", "unpacking", "values"}
            shared |= {
                "archive_frames",
                "archive_records",
                "http_message",
                "main_content",
                "mathml",
                "page_facts",
                "page_figures",
            }
            shared |= {"latex", "latex_commands", "latex_files", "latex_macros", "latex_source", "scripts", "siunitx"}
            shared |= {"language_codes"}
            shared |= {"article_text", "xml_reader"}
            shared |= {
                "raised",
                "template_arguments",
                "template_names",
                "template_numbers",
                "templates",
                "unwrapping",
                "wikitext_tree",
            }
            shared |= {"evaluation_sets", "external_sort", "numbering", "ragged", "signatures", "union_find", "words"}
            assert known <= {*shared, path.stem}, path


def test_no_module_shadows_another():
    """`deepspeed trainer/train.py` puts trainer/ itself first on the path; train.py mends it before its other imports."""
    taken = {*sys.stdlib_module_names, *packages_distributions()}
    stems = {path.stem for name in PACKAGES for path in (ROOT / name).rglob("*.py")} - {"__init__", "__main__"}
    stems |= {path.name for name in PACKAGES for path in (ROOT / name).rglob("*") if path.is_dir()} - {"__pycache__"}
    assert stems & taken - {"shards", "data"} == set()
    body = ast.parse((ROOT / "trainer" / "train.py").read_text()).body
    mend = next(i for i, node in enumerate(body) if isinstance(node, ast.If) and "__package__" in ast.unparse(node.test))
    before = [node for node in body[:mend] if isinstance(node, (ast.Import, ast.ImportFrom))]
    named = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in before}
    assert named <= sys.stdlib_module_names


@pytest.mark.parametrize("path", CHECKED, ids=name_of)
def test_nothing_from_data_can_run(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not top_level(path) & {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{path}:{node.lineno}: bare except"
        if not isinstance(node, ast.Call):
            continue
        called, options = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
        assert called not in ("eval", "exec"), f"{path}:{node.lineno}"
        if called == "torch.load":
            assert ast.unparse(options["weights_only"]) == "True", f"{path}:{node.lineno}"
        if called in ("np.load", "numpy.load"):
            assert "allow_pickle" not in options, f"{path}:{node.lineno}"
        if "trust_remote_code" in options:
            assert ast.unparse(options["trust_remote_code"]) == "False", f"{path}:{node.lineno}"


def test_no_file_knows_the_machine_it_was_written_on():
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, tracked.stdout.split("\0")):
        path = ROOT / name
        if (
            path.suffix in (".zst", ".png", ".npz", ".bin", ".idx")
            or "samples/books" in name
            or not path.is_file()
            or path == Path(__file__).resolve()
        ):
            continue
        if re.search(r"/(work|root|home|tmp)/\w", path.read_text(encoding="utf-8")):
            found.append(name)
    assert found == []
