"""Checks docs/operations.md: a row for every operation that the dialect registers, and in every cell a test that exists
and has the operation.

usage: check_operation_table.py TABLE.md LLMOps.h.inc

A cell names tests as `folder/file.mlir @function`, or `folder/file.mlir "message"` for a part of a file of refused input
in which that message is expected. Where nothing rewrites an operation, its last cell says so.
"""

import pathlib
import re
import sys

COLUMNS = ["operation", "round trip", "invalid", "lowering", "does not"]
TEST = re.compile(r'`([\w./-]+\.mlir) (@\w+|"[^"]+")`')


def registered(generated):
    """The operations of the dialect, from what TableGen made of it."""
    return set(re.findall(r'StringLiteral\("llm\.(\w+)"\)', generated))


def rows(table):
    """{operation: {column: cell}} and the problems of the table itself."""
    lines = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in table.splitlines() if line.startswith("|")]
    if not lines or lines[0] != COLUMNS:
        return {}, [f"the table's columns must be {COLUMNS}, got {lines[:1]}"]
    result, problems = {}, []
    for cells in lines[2:]:
        name = cells[0].strip("`").removeprefix("llm.")
        if len(cells) != len(COLUMNS):
            problems.append(f"{name}: {len(cells)} cells, expected {len(COLUMNS)}")
        elif name in result:
            problems.append(f"{name}: two rows")
        else:
            result[name] = dict(zip(COLUMNS[1:], cells[1:]))
    return result, problems


def bodies(text, name):
    """The text of function `name`: from it to the next function or part of the file."""
    return re.findall(rf"^ *func\.func (?:private )?{name}\b.*?(?=^ *func\.func |^// -----$|\Z)", text, re.M | re.S)


def parts(text, message):
    """The parts of a file of refused input that expect `message`."""
    return [part for part in re.split(r"^// -----$", text, flags=re.M) if re.search(r"expected-error.*" + re.escape(message), part)]


def problems_of(cell, operation, folder):
    tests = TEST.findall(cell)
    if not tests:
        yield f"names no test: {cell!r}"
    for path, name in tests:
        file = folder / path
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        found = bodies(text, name) if name.startswith("@") else parts(text, name.strip('"'))
        if not re.search(r"^// RUN: ", text, re.M):
            yield f"{path} isn't a test"
        elif not found:
            yield f"{path} has no {name}"
        # In the input, not only in what's expected of it.
        elif not any(re.search(rf"^(?! *//).*\bllm\.{operation}\b", text, re.M) for text in found):
            yield f"{path} {name} doesn't have llm.{operation}"


def main():
    table, generated = (pathlib.Path(argument).read_text(encoding="utf-8") for argument in sys.argv[1:3])
    folder = pathlib.Path(__file__).parent
    names = registered(generated)
    result, problems = rows(table)
    problems += [f"{name}: has no row" for name in sorted(names - set(result))]
    problems += [f"{name}: isn't an operation of the dialect" for name in sorted(set(result) - names)]
    for name, cells in result.items():
        for column, cell in cells.items():
            if column == "does not" and cell == "nothing rewrites it":
                continue
            problems += [f"{name}, {column}: {problem}" for problem in problems_of(cell, name, folder)]
    for problem in problems:
        print(f"operation table: {problem}", file=sys.stderr)
    if not names:
        sys.exit(f"operation table: {sys.argv[2]} registers no operation")
    if problems:
        sys.exit(1)
    print(f"{len(names)} operations, every cell full")


if __name__ == "__main__":
    main()
