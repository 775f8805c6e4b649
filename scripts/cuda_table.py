"""Assembles the CUDA kernels that `cuda_sources` wrote and holds what comes out against a table.

    python3 scripts/cuda_table.py SOURCES TABLE [--write | --print]

SOURCES is the folder of `cuda_sources`, with what `ptx-counters` counted, TABLE the committed Markdown table, CUDA_HOME the
assembler's. A kernel that the table lacks and one that is worse than the table in any column fail; `--write` writes the table
anew, `--print` prints what SOURCES has of it. Nothing runs on a GPU: the figures are the assembler's, of its listing, and of the
software CUDA device.
"""

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import pathlib
import re
import subprocess
import sys
import tempfile

CUDA = pathlib.Path(os.environ.get("CUDA_HOME", "/"))


@dataclasses.dataclass(frozen=True)
class Multiprocessor:
    """What the blocks on a multiprocessor share (CUDA C++ Programming Guide, technical specifications)."""

    threads: int
    blocks: int
    shared: int
    registers: int = 65536


MULTIPROCESSORS = {
    80: Multiprocessor(threads=2048, blocks=32, shared=164 << 10),
    90: Multiprocessor(threads=2048, blocks=32, shared=228 << 10),
    120: Multiprocessor(threads=1536, blocks=24, shared=100 << 10),
}

# Columns of figures: their heading, and whether more is better; None where neither is.
COLUMNS = {
    "registers": ("registers", False),
    "spilled": ("spilled bytes", False),
    "stack": ("stack bytes", False),
    "shared": ("shared bytes", False),
    "blocks": ("blocks/SM", True),
    "tensor": ("tensor-core instructions", True),
    "load_bits": ("bits a packed load", True),
    "per_weight": ("instructions/weight", False),
    "executed": ("warp instructions", False),
    "products": ("matrix products", True),
    "sectors": ("sectors", False),
    "per_request": ("sectors a request", None),
    "wavefronts": ("wavefronts", False),
    "conflicts": ("of them conflicts", False),
}

INTRODUCTION = """\
# The kernels as CUDA code

Written by `scripts/cuda-check.sh --write`, which compiles every kernel that the calls in `examples/cuda_sources/cases.rs`
launch on a CUDA device, as a stock Burn does: to PTX by CubeCL through LLVM, which ptxas {version} assembles as the driver
would. One block of each, the one in the middle of the grid, is then run by the software CUDA device (`tools/ptx-device`), on
numbers at random. No GPU ran any of it, and no figure here is a time.

Shapes are the three of LLaMA-7B's projections, and 1000 × 1001 as one whose rows do not begin on a packed word; scales
are double-quantized unless a call says otherwise. Weights in the formats of GGUF files are 11008 × 4096. *Blocks/SM* are
those that a multiprocessor holds at once by registers, shared memory and threads. *Tensor-core instructions* are those in
the listing. *Bits a packed load* is the narrowest load
of packed weights in the main loop, the innermost that loads any; *instructions/weight* are the instructions listed in it
for each weight that a thread loads there (in the whole kernel where there is no loop; at 1000 × 1001, where a load may
serve one weight, all eight of a word count).

What the one block did: *warp instructions* of PTX executed, *matrix products* among them; *sectors* of 32 bytes of global memory
read and written, and how many a warp asked for at once; *wavefronts* of shared memory, and how many of them only because
lanes met in a bank.
"""


def numbered(ptx):
    """PTX whose every instruction says the line that it is on, for ptxas to hand on to the listing."""
    lines = ptx.splitlines()
    body = False
    for number, line in enumerate(lines):
        if line.startswith("{"):
            body = True
        elif line.startswith("}"):
            body = False
        elif body and re.match(r"\s+(@|[a-z])", line):
            lines[number] = f".loc 1 {number + 1} 0\t{line}"
    header = next(number for number, line in enumerate(lines) if line.startswith(".address_size"))
    lines[header] += '\t.file 1 "kernel.ptx"'
    return "\n".join(lines) + "\n"


def packed_loads(ptx, entry, buffer):
    """Lines of the PTX that load from the kernel's parameter `buffer`."""
    pointers, lines = set(), set()
    found = -1
    # Until nothing is added, for a register may be used above where it is set, in a loop.
    while found != len(pointers) + len(lines):
        found = len(pointers) + len(lines)
        for line, statement in enumerate(ptx.splitlines(), 1):
            instruction = re.match(r"(?:@!?%p\d+\s+)?([a-z][\w.:]*)\s+(.*);", statement.strip())
            if not instruction:
                continue
            opcode, operands = instruction.groups()
            target = re.match(r"%rd\d+", operands)
            sources = re.findall(r"%rd\d+", operands)[1 if target else 0 :]
            if opcode.startswith("ld.param") and f"[{entry}_param_{buffer}]" in operands:
                pointers.add(target[0])
            elif opcode.startswith("ld.global"):
                if set(re.findall(r"%rd\d+", operands[operands.index("[") :])) & pointers:
                    lines.add(line)
            elif target and not opcode.startswith(("ld.", "setp")) and set(sources) & pointers:
                pointers.add(target[0])
    return lines


@dataclasses.dataclass
class Instruction:
    """One of the listing: its opcode, the line of the source that it comes from, and where it jumps to."""

    opcode: str
    line: int
    target: str | None


def listing(cubin):
    """The instructions of a kernel, and the labels by the instruction that they stand before."""
    text = run(CUDA / "bin/nvdisasm", "-g", "-c", cubin)
    instructions, labels, line = [], {}, 0
    for row in text.splitlines():
        if at := re.match(r'\s*//## File "[^"]*", line (\d+)', row):
            line = int(at[1])
        elif at := re.match(r"(\.L_x_\d+):", row):
            labels[at[1]] = len(instructions)
        elif at := re.match(r"\s*/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*);", row):
            jump = re.search(r"`\((\.L_x_\d+)\)", at[2]) if at[1].startswith("BRA") else None
            instructions.append(Instruction(at[1], line, jump and jump[1]))
    return instructions, labels


def main_loop(instructions, labels, lines):
    """The innermost loop that loads packed words, of several the one that loads most; else all instructions."""

    def loaded(loop):
        return sum(load_bits(it) for it in loop if is_packed_load(it, lines))

    loops = [
        range(labels[it.target], at + 1)
        for at, it in enumerate(instructions)
        if it.target and labels.get(it.target, at + 1) <= at
    ]
    loops = [loop for loop in loops if loaded([instructions[at] for at in loop])]

    def holds_another(loop):
        return any(set(other) < set(loop) for other in loops)

    innermost = [[instructions[at] for at in loop] for loop in loops if not holds_another(loop)]
    return max(innermost, key=loaded, default=instructions)


def is_packed_load(instruction, lines):
    return instruction.line in lines and instruction.opcode.startswith(("LDG", "LDGSTS"))


def load_bits(instruction):
    parts = instruction.opcode.split(".")
    return next((bits for bits in (256, 128, 64) if str(bits) in parts), 32)


def blocks_resident(registers, shared, threads, architecture):
    """Blocks that a multiprocessor holds: registers go by 256 a warp, shared memory by 128 bytes and 1 KiB a block."""
    limits = MULTIPROCESSORS[architecture]
    warps = -(-threads // 32)
    by_registers = limits.registers // (-(-registers * 32 // 256) * 256 * warps)
    by_shared = limits.shared // (-(-shared // 128) * 128 + 1024)
    return min(by_registers, by_shared, limits.threads // (warps * 32), limits.blocks)


def run(*command):
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(result.stdout + result.stderr)
    return result.stdout + result.stderr


def executed(counters):
    """The figures of what one block did."""

    def both(memory, figure):
        return sum(counters[f"{memory}_{way}"][figure] for way in ("loads", "stores"))

    sectors, requests = both("global", "cost"), both("global", "requests")
    wavefronts = both("shared", "cost")
    return {
        "executed": counters["warp_instructions"],
        "products": counters["matrix_products"],
        "sectors": sectors,
        "per_request": round(sectors / max(requests, 1), 1),
        "wavefronts": wavefronts,
        "conflicts": wavefronts - both("shared", "ideal"),
    }


def measured(job):
    """The figures of one kernel."""
    folder, kernel, counters = job
    version = kernel["architecture"]
    # Instructions of one architecture alone, as CubeCL asks for them.
    architecture = f"{version}a" if version >= 90 else str(version)
    try:
        ptx = (folder / kernel["file"]).read_text()
        with tempfile.TemporaryDirectory() as work:
            path, cubin = pathlib.Path(work, "kernel.ptx"), pathlib.Path(work, "kernel.cubin")
            path.write_text(numbered(ptx))
            report = run(CUDA / "bin/ptxas", f"-arch=sm_{architecture}", "-v", "-lineinfo", path, "-o", cubin)
            instructions, labels = listing(cubin)
    except RuntimeError as error:
        raise RuntimeError(f"{kernel['file']} does not assemble:\n{error}") from None

    def reported(pattern):
        found = re.search(r"(\d+) " + pattern, report)
        return int(found[1]) if found else 0

    registers = reported("registers")
    shared = reported("bytes smem") + kernel["dynamic_shared"]
    figures = {
        "registers": registers,
        "spilled": reported("bytes spill stores") + reported("bytes spill loads"),
        "stack": reported("bytes stack frame"),
        "shared": shared,
        "blocks": blocks_resident(registers, shared, math.prod(kernel["block"]), version),
        "tensor": sum(bool(re.match(r"[A-Z0-9]*MMA\b", it.opcode)) for it in instructions),
        "load_bits": None,
        "per_weight": None,
        **executed(counters),
        "many_rows": kernel["packed_buffer"] is not None
        and any((case["rows"] or 0) > 8 for case in kernel["cases"]),
    }
    if kernel["packed_buffer"] is not None:
        lines = packed_loads(ptx, kernel["entry"], kernel["packed_buffer"])
        loop = main_loop(instructions, labels, lines)
        bits = [load_bits(it) for it in loop if is_packed_load(it, lines)]
        if not bits:
            raise RuntimeError(f"{kernel['file']}: no load of packed words was found in its listing")
        work = sum(it.opcode != "NOP" for it in loop)
        figures |= {"load_bits": min(bits), "per_weight": round(work / (sum(bits) / kernel["code_bits"]), 1)}
    return figures


def shapes(values):
    model = [[4096, 4096], [4096, 11008], [11008, 4096]]
    return "7B" if values == model else "; ".join(f"{out} × {into}" for out, into in values)


def called(cases, operations):
    """Which calls launch a kernel, in words: what is not said is so for all of that operation."""
    words = []
    for operation in sorted({case["operation"] for case in cases}):
        own = [case for case in cases if case["operation"] == operation]
        every = operations[operation]
        word = operation
        for field, say in [
            ("rows", lambda values: "m " + ", ".join(map(str, values))),
            ("shape", shapes),
            ("double_quant", lambda values: "f32 scales" if values == [False] else None),
        ]:
            values = sorted({json.dumps(case[field]) for case in own}, key=json.loads)
            if field == "double_quant" or set(values) != every[field]:
                said = say(list(map(json.loads, values)))
                word += f", {said}" if said else ""
        words.append(word)
    return "; ".join(words)


def rows_of(folder):
    """The table: figures by architecture, calls, kernel and type."""
    listed, launches, counters = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("kernels", "launches", "counters")
    )
    kernels = [kernel | launches[kernel["launch"]] for kernel in listed]
    operations = {}
    for kernel in kernels:
        for case in kernel["cases"]:
            every = operations.setdefault(case["operation"], {"rows": set(), "shape": set()})
            for field, values in every.items():
                values.add(json.dumps(case[field]))
    with multiprocessing.Pool() as pool:
        jobs = [(folder, kernel, counters[kernel["launch"]]) for kernel in kernels]
        figures = pool.map(measured, jobs, chunksize=1)
    rows = {}
    for kernel, row in zip(kernels, figures):
        name = re.sub(r"(_(f|lhs)_\w+?)?_[0-9a-f]{8}$", "", kernel["entry"])
        dtype = kernel["cases"][0]["dtype"]
        key = (called(kernel["cases"], operations), name, dtype, f"sm_{kernel['architecture']}")
        for number in range(2, 100):
            if key not in rows:
                break
            key = (key[0], f"{name} ({number})", *key[2:])
        rows[key] = row
    return dict(sorted(rows.items(), key=lambda row: (*row[0][:3], int(row[0][3][3:]))))


def short_of_aims(rows):
    """What a kernel should have and does not have yet."""
    for key, row in rows.items():
        if row["many_rows"] and key[2] != "f32" and not row["tensor"]:
            yield "a product of more than 8 rows in f16 or bf16 without tensor cores", key
        if row["load_bits"] is not None and row["load_bits"] < 128:
            yield "packed words loaded fewer than 128 bits at a time", key
        if row["spilled"]:
            yield "registers spilled", key
        if row["blocks"] < 2:
            yield "fewer than two blocks on a multiprocessor", key


def table(rows):
    """The lines of the table."""
    headings = ["call", "kernel", "type", "device", *(heading for heading, _ in COLUMNS.values())]
    yield f"| {' | '.join(headings)} |"
    yield "| --- " * 4 + "| ---: " * len(COLUMNS) + "|"
    for key, row in rows.items():
        figures = ("–" if row[column] is None else str(row[column]) for column in COLUMNS)
        yield f"| {' | '.join((*key, *figures))} |"


def written(rows):
    version = next((CUDA / "include").glob("cuda.h")).read_text()
    version = re.search(r"#define CUDA_VERSION (\d+)", version)[1]
    version = f"{int(version) // 1000}.{int(version) % 1000 // 10}"
    lines = [INTRODUCTION.format(version=version), *table(rows)]
    short = {}
    for aim, (call, name, *_) in short_of_aims(rows):
        short.setdefault(aim, {}).setdefault(name, {}).setdefault(call)
    lines.append("\n## Short of their aims\n")
    for aim, names in short.items():
        lines.append(f"- {aim}")
        lines += [f"  - `{name}`: {'; '.join(calls)}" for name, calls in names.items()]
    lines += [] if short else ["None."]
    return "\n".join(lines) + "\n"


def read(table):
    """The rows of a written table."""
    rows = {}
    for line in table.read_text().splitlines() if table.exists() else []:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 4 + len(COLUMNS) and cells[3].startswith("sm_"):
            figures = (None if cell == "–" else float(cell) for cell in cells[4:])
            rows[tuple(cells[:4])] = dict(zip(COLUMNS, figures))
    return rows


def compared(rows, committed):
    """What fails, and what is better than the table says."""
    failures, better = [], []
    for key, row in rows.items():
        name = " | ".join(key)
        if key not in committed:
            failures.append(f"{name}: not in the table")
            continue
        for column, (heading, more) in COLUMNS.items():
            old, new = committed[key][column], row[column]
            if old == new:
                continue
            if more is None and None not in (old, new):
                continue
            change = f"{name}: {heading} {old if old is None else f'{old:g}'} → {new}"
            worse = old is None or new is None or (new < old) == more
            (failures if worse else better).append(change)
    gone = committed.keys() - rows.keys()
    failures += [f"{' | '.join(key)}: in the table, but no call launches it" for key in sorted(gone)]
    return failures, better


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=pathlib.Path)
    parser.add_argument("table", type=pathlib.Path)
    told = parser.add_mutually_exclusive_group()
    told.add_argument("--write", action="store_true", help="write the table anew")
    told.add_argument("--print", action="store_true", help="print the table of what there is")
    arguments = parser.parse_args()
    if "CUDA_HOME" not in os.environ:
        sys.exit("error: CUDA_HOME is not set; scripts/cuda-check.sh sets it")
    try:
        rows = rows_of(arguments.sources)
    except RuntimeError as error:
        sys.exit(f"error: {error}")
    if arguments.print:
        print("\n".join(table(rows)))
        return
    if arguments.write:
        arguments.table.write_text(written(rows))
        print(f"{len(rows)} kernels written to {arguments.table}")
        return
    failures, better = compared(rows, read(arguments.table))
    for line in better:
        print(f"better: {line}")
    if failures:
        sys.exit(
            "\n".join(f"worse: {line}" for line in failures)
            + "\n\nerror: the kernels are not what the table says. If the change is worth it, write the table anew with\n"
            "  scripts/cuda-check.sh --write\nand say in the commit what it costs and what it brings."
        )
    print(f"{len(rows)} kernels as in {arguments.table}")
    if better:
        print("some are better: scripts/cuda-check.sh --write keeps that")


if __name__ == "__main__":
    main()
