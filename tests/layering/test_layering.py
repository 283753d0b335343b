"""Who may use whom: the #include lines and CMake link lines of every folder against the table in ARCHITECTURE.md."""

import pathlib
import re

import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BASE = "plan_schema/base"  # for all that may use anything of the project
# Libraries whose headers only the folders that name them in the table may include.
GUARDED = {"MPI": r"mpi\.h", "PCRE2": r"pcre2.*", "LLVM/MLIR": r"(llvm|mlir)/.*", "FlatBuffers": r"flatbuffers/.*",
           "Boost.Asio": r"boost/.*"}


def table():
    """{folder: (folders it may use, libraries it may use)} from ARCHITECTURE.md."""
    text = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| *([\w/, ]+?) *\|[^|]*\| *([^|]*?) *\|$", text, re.M)
    rows = [(names, uses) for names, uses in rows if names != "folder" and (REPOSITORY / names.split(",")[0]).is_dir()]
    rules = {}
    for names, uses in rows:
        words = [word.strip() for word in re.sub(r"\([^)]*\)", "", uses).split(",")]
        for folder in names.split(","):
            rules[folder.strip()] = words
    folders = set(rules) | {BASE}
    result = {BASE: (set(), set())}
    for folder, words in rules.items():
        used = {BASE if word == "base" else word for word in words}
        if words != ["nothing of the project"]:
            used.add(BASE)
        # A folder's use includes the parts below it.
        used = {f for f in folders if any(f == u or f.startswith(u + "/") for u in used)}
        result[folder] = (used, {word for word in words if word in GUARDED})
    return result


RULES = table()
# What the table leaves free.
CHECKED = [folder for folder in RULES if folder not in ("launch", "tests", "perf", "configs")]


def folder_of(path):
    """The table's folder that a path belongs to: the longest that is its prefix."""
    return max((f for f in RULES if path == f or path.startswith(f + "/")), key=len, default=None)


def sources(folder, *suffixes):
    """(name, text) of the folder's own files, those of a part with its own row left out."""
    names = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / folder).rglob("*") if path.is_file())
    names = [name for name in names if name.endswith(suffixes) and folder_of(name) == folder]
    return [(name, (REPOSITORY / name).read_text(encoding="utf-8")) for name in names]


def may_use(folder, other):
    # plan_schema's own parts below it are users of it, not used by it.
    return other is None or other == folder or other in RULES[folder][0]


def include_violations(folder, name, text):
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#?\s*include\s*["<]([^">]+)[">]', line)
        if not match:
            continue
        included = match[1]
        other = folder_of(included)
        if not may_use(folder, other):
            yield f"{name}:{number}: {folder} may not use {other} ({included})"
        for library, pattern in GUARDED.items():
            if re.fullmatch(pattern, included) and library not in RULES[folder][1]:
                yield f"{name}:{number}: {folder} may not use {library} ({included})"


def test_the_table_is_read():
    assert {"plan_schema", "plan_schema/checkpoint", "planner", "kernels", "comm", "kvpool", "executor"} <= set(RULES)
    assert RULES["kernels"] == (set(), set())
    assert RULES["kvpool"][0] == {BASE, "comm"}
    assert RULES["comm"][1] == {"MPI"}
    assert "plan_schema/checkpoint" in RULES["executor"][0] and "planner" not in RULES["executor"][0]


@pytest.mark.parametrize("folder", CHECKED)
def test_includes_follow_the_table(folder):
    files = sources(folder, ".h", ".cc", ".cpp", ".inc", ".td", ".cu", ".cuh")
    assert files
    assert [violation for name, text in files for violation in include_violations(folder, name, text)] == []


def test_a_forbidden_include_is_found():
    text = '// a comment\n#include "planner/Target/Plan/PlanTypes.h"\n#include <mpi.h>\n#include <vector>\n'
    assert list(include_violations("kvpool", "x.cc", text)) == [
        "x.cc:2: kvpool may not use planner (planner/Target/Plan/PlanTypes.h)",
        "x.cc:3: kvpool may not use MPI (mpi.h)",
    ]


def link_violations(folder, name, text):
    for target, libraries in re.findall(r"target_link_libraries\(\s*(\S+)([^)]*)\)", re.sub(r"#.*", "", text)):
        for library in re.findall(r"\bllmir_\w+", libraries):
            other = LIBRARIES.get(library)
            if not may_use(folder, other):
                yield f"{name}: {target} of {folder} may not link {library} of {other}"


def libraries():
    """{CMake library: folder} of all libraries that the CMakeLists.txt files define."""
    found = {}
    for folder in RULES:
        for _, text in sources(folder, "CMakeLists.txt"):
            for library in re.findall(r"add_(?:library|\w*_library)\(\s*(\w+)", text):
                found[library] = folder
    return found


LIBRARIES = libraries()


@pytest.mark.parametrize("folder", CHECKED)
def test_link_lines_follow_the_table(folder):
    found = [violation for name, text in sources(folder, "CMakeLists.txt") for violation in link_violations(folder, name, text)]
    assert found == []


def test_a_forbidden_link_is_found():
    text = "target_link_libraries(llmir_kernels PUBLIC Threads::Threads\n  llmir_plan_schema)"
    assert list(link_violations("kernels", "x", text)) == ["x: llmir_kernels of kernels may not link llmir_plan_schema of plan_schema"]
