"""Clocks that instructions take from one scheduler of a GPU, alone and mixed.

    python benchmarks/instruction_clocks.py

One block runs a loop of independent instructions on one multiprocessor, with 1, 2 and 4 warps for
each of its four schedulers. Printed are the clocks for one warp's instructions, by which the scan's
own time can be explained: what it has of each kind, `nvdisasm` tells.
"""

import tempfile
from pathlib import Path

import torch

from cdm.kernels.nvrtc import Kernel, ints

LOOPS, UNROLL = 200, 8


def mma(shape: str, dtype: str, a_words: int, b_words: int) -> str:
    """A product of tensor cores that adds to one of eight accumulators."""
    places = [f"%{n}" for n in range(4 + a_words + b_words)]
    d, a, b = (",".join(places[i:j]) for i, j in ((0, 4), (4, 4 + a_words), (4 + a_words, None)))
    sums = ", ".join(f'"+f"(d[i % 8][{n}])' for n in range(4))
    factors = ", ".join(f'"r"(a[{n % 4}])' for n in range(a_words + b_words))
    operation = f"mma.sync.aligned.{shape}.row.col.f32.{dtype}.{dtype}.f32"
    return f'asm volatile("{operation} {{{d}}}, {{{a}}}, {{{b}}}, {{{d}}};" : {sums} : {factors});'


# An instruction: its constraints are written so that no two of eight in a row wait for each other.
INSTRUCTIONS = {
    "FFMA": 'asm volatile("fma.rn.f32 %0, %0, %1, %1;" : "+f"(x[i % 16]) : "f"(k));',
    "FMUL": 'asm volatile("mul.rn.f32 %0, %0, %1;" : "+f"(x[i % 16]) : "f"(k));',
    "FMNMX": 'asm volatile("min.f32 %0, %0, %1;" : "+f"(x[i % 16]) : "f"(k));',
    "EX2": 'asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x[i % 16]));',
    "EX2_BF16X2": 'asm volatile("ex2.approx.ftz.bf16x2 %0, %0;" : "+r"(w[i % 8]));',
    "PACK": 'asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w[i % 8]) : "f"(k), '
    '"f"(__uint_as_float(w[i % 8])));',
    "PRMT": 'asm volatile("prmt.b32 %0, %0, %1, 0x3276;" : "+r"(w[i % 8]) : "r"(a[1]));',
    "LOP3": 'asm volatile("lop3.b32 %0, %0, %1, %2, 0x5c;" : "+r"(w[i % 8]) : "r"(w[(i + 1) % 8]), '
    '"r"(a[1]));',
    "MOVMATRIX": 'asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %0;" : "+r"(w[i % 8]));',
    "MMA_K8": mma("m16n8k8", "bf16", 2, 1),
    "MMA_K16": mma("m16n8k16", "bf16", 4, 2),
    "MMA_K8_TF32": mma("m16n8k8", "tf32", 4, 2),
}
# What is timed: how many of each kind follow one another.
ALONE = [{name: 4} for name in INSTRUCTIONS]
MIXED = [
    {"EX2": 1, "FFMA": 4},
    {"EX2": 1, "FFMA": 8},
    {"EX2": 1, "MMA_K8": 1},
    {"EX2": 1, "MMA_K16": 1},
    {"MMA_K8": 1, "FFMA": 4},
    {"MMA_K8": 1, "FFMA": 8},
    {"MMA_K16": 1, "FFMA": 4},
    {"MMA_K16": 1, "FFMA": 8},
    {"MMA_K8": 1, "PACK": 4},
    {"PACK": 4, "FFMA": 4},
    {"PACK": 4, "LOP3": 4},
]
# The scan's steps: half of a token of 32 channels and 16 states, but for what is done once a tile.
SCAN = {
    "EX2": 8, "PACK": 4, "MMA_K8": 2, "MMA_K16": 1, "FMUL": 16, "FFMA": 14, "LOP3": 4, "PRMT": 2,
    "FMNMX": 4,
}  # fmt: skip
SOURCE = """
typedef unsigned int u32;
extern "C" __global__ void run(long long* clocks, float* out) {
    float x[16], d[8][4], k = out[0];
    u32 w[8], a[4];
    for (int i = 0; i < 16; i++) x[i] = threadIdx.x * 0.001f * i;
    for (int i = 0; i < 8; i++) w[i] = threadIdx.x + i;
    for (int i = 0; i < 32; i++) d[i / 4][i % 4] = 0;
    for (int i = 0; i < 4; i++) a[i] = threadIdx.x % 4 + i;
    const long long begin = clock64();
    for (int n = 0; n < LOOPS; n++) {
#pragma unroll
        for (int u = 0; u < UNROLL; u++) { BODY }
    }
    const long long end = clock64();
    float sum = 0;
    for (int i = 0; i < 16; i++) sum += x[i];
    for (int i = 0; i < 8; i++) sum += w[i];
    for (int i = 0; i < 32; i++) sum += d[i / 4][i % 4];
    out[1 + threadIdx.x] = sum;
    if (threadIdx.x == 0) clocks[0] = end - begin;
}
"""


def body(mix: dict[str, int]) -> str:
    """The instructions of a mix, the kinds spread evenly over it."""
    placed = sorted((n / count, name) for name, count in mix.items() for n in range(count))
    seen = dict.fromkeys(mix, 0)
    lines = []
    for _, name in placed:
        lines.append(f"{{ const int i = {mix[name]} * u + {seen[name]}; {INSTRUCTIONS[name]} }}")
        seen[name] += 1
    return "\n".join(lines)


def clocks_of(mix: dict[str, int], folder: Path) -> list[float]:
    """Clocks of one scheduler for one warp's instructions, with 1, 2 and 4 warps on it."""
    path = folder / ("_".join(f"{name}{count}" for name, count in mix.items()) + ".cu")
    path.write_text(SOURCE.replace("BODY", body(mix)))
    kernel = Kernel(path, "run", torch.cuda.current_device(), LOOPS=LOOPS, UNROLL=UNROLL)
    out = torch.full((1 + 512,), 0.5, device="cuda")
    clocks = torch.zeros(1, dtype=torch.int64, device="cuda")
    found = []
    for warps in 1, 2, 4:
        for _ in range(2):  # the first one warms up
            kernel((1, 1, 1), 4 * 32 * warps, clocks, out, *ints())
        found.append(clocks.item() / (LOOPS * UNROLL * warps))
    return found


def main() -> None:
    """Print a row for each mix."""
    print(torch.cuda.get_device_name())
    with tempfile.TemporaryDirectory() as folder:
        without = [{kind: SCAN[kind] for kind in SCAN if kind != left_out} for left_out in SCAN]
        for mix in [*ALONE, *MIXED, SCAN, *without]:
            name = " + ".join(f"{count} {kind}" for kind, count in mix.items())
            print(f"{name}: " + ", ".join(f"{x:.2f}" for x in clocks_of(mix, Path(folder))))


if __name__ == "__main__":
    main()
