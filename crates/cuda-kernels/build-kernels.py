"""Compiles kernels/*.cu to PTX text with NVIDIA's run-time compiler (no GPU, no toolkit), and checks what ptxas makes
of it. Called by build-kernels.sh, which fetches the pinned wheels."""

import argparse
import ctypes
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
# The baseline runs on every device from it on. sm_90a's text would differ in one line, its name: none of its own
# instructions is used.
ARCHITECTURE = "compute_80"
# Devices whose machine code is examined.
MACHINES = ["sm_80", "sm_90"]
# At most so many registers a thread, so that the launch's blocks fit the register file. Kernels not named: 64.
PRODUCTS = r"margin_(lse|shares|gradients)_f(16|32)"
# These hold two products at a time; one block of 256 threads, or two of 128, have 255 registers a thread.
SUB_CENTRES = r"margin_(lse|shares)_subs_f(16|32)"
ROWS = r"margin_(prepare|weigh|finish)"
REGISTERS = [
    (PRODUCTS, 255), (SUB_CENTRES, 255), (ROWS, 128), (r"triplet_(distance|pull)", 128), (r"triplet_count", 80),
    (r"pool_(maps|tokens|tokens_pairs)_gem_\w+", 72),  # seven blocks of 128 threads on a multiprocessor
]
# What a kernel's machine code must contain, and how often at least.
EXPECTED = [
    (r"margin_(lse|shares)_f16", {"HMMA.16816.F32": 64, "LDSM.16.M88.4": 16, "LDGSTS.E.BYPASS.128": 16, "LDG.E.128": 2}),
    (r"margin_(lse|shares)_f32", {"HMMA.16816.F32": 192, "LDSM.16.M88.4": 32, "LDGSTS.E.BYPASS.128": 32, "LDG.E.128": 2}),
    (r"margin_(lse|shares)_subs_f16", {"HMMA.16816.F32": 64, "LDSM.16.M88.4": 24, "LDGSTS.E.BYPASS.128": 16}),
    (r"margin_(lse|shares)_subs_f32", {"HMMA.16816.F32": 192, "LDSM.16.M88.4": 48, "LDGSTS.E.BYPASS.128": 32}),
    (r"margin_gradients_f16", {"HMMA.16816.F32": 128, "LDSM.16.MT88.4": 24, "LDGSTS.E.BYPASS.128": 32, "LDG.E.128": 2}),
    (r"margin_gradients_f32", {"HMMA.16816.F32": 384, "LDSM.16.MT88.4": 48, "LDGSTS.E.BYPASS.128": 64, "LDG.E.128": 2}),
    (r"margin_finish", {"LDG.E.128": 4, "STG.E.128": 4}),
    (r"margin_tile_lse", {"LDG.E.128": 2}),
    (r"margin_tile_shares_f16", {"LDG.E.128": 2, "STG.E.128": 1}),
    (r"margin_tile_shares_f32", {"LDG.E.128": 2, "STG.E.128": 2}),
    (r"pool_maps_(average|maximum)_\w+", {"LDG.E.128": 1}),
    (r"pool_maps_gem_b?f(16|32)", {"LDGSTS.E.BYPASS.128": 8, "LDS.128": 8}),
    (r"pool_maps_backward_(gem)_\w+", {"LDG.E.128": 1, "STG.E.128": 1}),
    (r"pool_short_(gem|average|maximum)_\w+", {"LDGSTS.E.BYPASS.128": 4}),
    (r"pool_short_backward_gem_\w+", {"LDG.E.128": 1, "STG.E.128": 1}),
    (r"pool_short_backward_(average|maximum)_\w+", {"STG.E.128": 1}),
    (r"triplet_distance", {"LDS.128": 16, "LDG.E.128": 4, "STG.E.128": 32}),
    (r"triplet_pull", {"LDS.128": 16, "LDG.E.128": 8}),
]


class Compiler:
    """The run-time compiler of a wheel unpacked at `root`."""

    def __init__(self, root):
        folder = next(root.glob("**/libnvrtc.so.*")).parent
        ctypes.CDLL(str(next(folder.glob("libnvrtc-builtins.so.*"))), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(next(folder.glob("libnvrtc.so.*"))))

    def version(self):
        major, minor = ctypes.c_int(), ctypes.c_int()
        self.call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        return f"{major.value}.{minor.value}"

    def call(self, name, *arguments):
        code = getattr(self.library, name)(*arguments)
        if code:
            raise RuntimeError(f"{name} failed with code {code}")

    def text(self, program, what):
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.value.decode()

    def ptx(self, source, architecture):
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
        options = [f"--gpu-architecture={architecture}", "--std=c++17", "--device-as-default-execution-space", f"--include-path={source.parent}"]
        encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        code = self.library.nvrtcCompileProgram(program, len(options), encoded)
        log = self.text(program, "ProgramLog").strip()
        if code or log:
            sys.exit(f"{source.name}, {architecture}:\n{log or code}")
        text = self.text(program, "PTX")
        self.call("nvrtcDestroyProgram", ctypes.byref(program))
        return text


def registers(kernel):
    return next((most for pattern, most in REGISTERS if re.fullmatch(pattern, kernel)), 64)


def examine(tools, ptx, machine, scratch):
    """What is wrong with the machine code of a PTX file: spills, registers, missing instructions. And a summary."""
    cubin = scratch / "kernels.cubin"
    ptxas = subprocess.run([tools / "ptxas", f"-arch={machine}", "-v", ptx, "-o", cubin], capture_output=True, text=True)
    if ptxas.returncode:
        return [f"ptxas {machine} {ptx.name}: {ptxas.stderr}"], []
    wrong, summary = [], []
    name = None
    for line in ptxas.stderr.splitlines():
        if found := re.search(r"Function properties for (\w+)", line):
            name = found[1]
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            if any(int(size) for size in found.groups()):
                wrong.append(f"{machine} {name}: {line.strip()}")
        elif found := re.search(r"Used (\d+) registers", line):
            summary.append((name, int(found[1])))
            if int(found[1]) > registers(name):
                wrong.append(f"{machine} {name}: {found[1]} registers, at most {registers(name)}")
    code = subprocess.run([tools / "nvdisasm", "-c", cubin], capture_output=True, text=True, check=True).stdout
    for section in re.split(r"^\s*\.section\s+", code, flags=re.M):
        if not (found := re.match(r"\.text\.(\w+)", section)):
            continue
        for pattern, instructions in EXPECTED:
            if not re.fullmatch(pattern, found[1]):
                continue
            for instruction, least in instructions.items():
                count = section.count(instruction)
                if count < least:
                    wrong.append(f"{machine} {found[1]}: {count} of {instruction}, at least {least}")
    return wrong, summary


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--wheels", type=pathlib.Path, required=True, help="where the wheels are unpacked")
    parser.add_argument("--check", action="store_true", help="compare with the committed PTX instead of writing it")
    arguments = parser.parse_args()
    compiler = Compiler(arguments.wheels / "compiler")
    tools = next((arguments.wheels / "tools").glob("**/bin/ptxas")).parent
    wrong = []
    sources = sorted((HERE / "kernels").glob("*.cu"))
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for source in sources:
            text = compiler.ptx(source, ARCHITECTURE)
            committed = HERE / "ptx" / f"{source.stem}.ptx"
            if not arguments.check:
                committed.parent.mkdir(parents=True, exist_ok=True)
                committed.write_text(text)
            elif not committed.exists() or committed.read_text() != text:
                wrong.append(f"{committed.relative_to(HERE)} is not what {source.name} compiles to: run build-kernels.sh")
            made = scratch / committed.name
            made.write_text(text)
            for machine in MACHINES:
                found, summary = examine(tools, made, machine, scratch)
                wrong += found
                most = max(summary, key=lambda kernel: kernel[1], default=("", 0))
                print(f"{machine:6} {source.name:21} {len(summary):3} kernels, at most {most[1]} registers ({most[0]})")
        stale = {path.stem for path in (HERE / "ptx").glob("*.ptx")} - {source.stem for source in sources}
        wrong += [f"ptx/{name}.ptx has no source" for name in sorted(stale)]
    print(f"run-time compiler {compiler.version()}")
    if wrong:
        sys.exit("\n".join(wrong))
    print("no spills, registers within their caps, expected instructions present" + (", PTX as committed" if arguments.check else ""))


main()
