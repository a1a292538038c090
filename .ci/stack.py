#!/usr/bin/env python3
"""How much stack each function of the C ABI takes at most on a Cortex-M, every path counted.

    .ci/stack.py LINKED OBJDUMP [FUNCTION=BYTES ...]

Reads the disassembly of a linked library (Thumb-2): what each function pushes and whom it calls. Exits with 1 if a
function can call itself over whatever detour, if a call goes through a pointer (either would leave the depth
unknown), or if one of those named takes more than it may.
"""
import bisect
import re
import subprocess
import sys

linked, objdump, *limits = sys.argv[1:]
text = subprocess.run([objdump, "-d", linked], check=True, capture_output=True, text=True).stdout

HEAD = re.compile(r"^([0-9a-f]+) <(.+)>:$")
STEP = re.compile(r"^ *[0-9a-f]+:\t([0-9a-f ]+)\t(\S+)\s*(.*)$")
# What lld puts between functions.
TRAP = "d4d4"
frames, calls, wild = {}, {}, []
# A jump into the middle of another function counts as a call of it.
heads = [HEAD.match(line) for line in text.splitlines() if HEAD.match(line)]
starts, names = [int(head[1], 16) for head in heads], [head[2] for head in heads]
name = None
for line in text.splitlines():
    if head := HEAD.match(line):
        name = head[2]
        frames[name], calls[name] = 0, set()
        continue
    step = STEP.match(line)
    if not step or name is None or step[1].strip() == TRAP:
        continue
    operation, operands = step[2].split(".")[0], step[3].split("@")[0].split(";")[0].strip()
    registers = re.search(r"\{(.*)\}", operands)
    if operation in ("push", "vpush") or operation in ("stmdb", "vstmdb") and operands.startswith("sp!"):
        count = 0
        for part in registers[1].split(","):
            first, _, last = part.strip().partition("-")
            count += int(last[1:]) - int(first[1:]) + 1 if last else 1
        frames[name] += count * (8 if operation.startswith("v") else 4)
    elif operation in ("str", "strd") and (pushed := re.search(r"\[sp, #-(\d+)\]!", operands)):
        frames[name] += int(pushed[1])
    elif operation in ("sub", "subw") and re.match(r"sp(, sp)?, #\d+$", operands):
        frames[name] += int(operands.rsplit("#", 1)[1])
    elif operation.startswith("sub") and re.match(r"sp, ", operands):
        sys.exit(f"{name}: {line.strip()}: a frame of unknown size")
    elif operation in ("blx", "bx") and re.match(r"r\d+$", operands) or operation == "mov" and operands.startswith("pc,"):
        wild.append(f"{name}: {line.strip()}")
    elif target := re.search(r"([0-9a-f]+) <", operands):
        callee = names[bisect.bisect(starts, int(target[1], 16)) - 1]
        # A branch inside a function is a loop; a call of itself is none.
        if operation.startswith(("b", "cb")) and (callee != name or operation in ("bl", "blx")):
            calls[name].add(callee)

if wild:
    sys.exit("calls through pointers:\n" + "\n".join(wild))

depths, path = {}, []


def depth(function):
    """The deepest stack below a function's caller, and the chain that leads there."""
    if function in path:
        sys.exit("recursion: " + " -> ".join(path[path.index(function):] + [function]))
    if function not in depths:
        path.append(function)
        below = max((depth(callee) for callee in calls[function]), default=(0, ()))
        depths[function] = (frames[function] + below[0], (function, *below[1]))
        path.pop()
    return depths[function]


sys.setrecursionlimit(10000)
bounds = dict((name, int(most)) for name, most in (limit.split("=") for limit in limits))
failed = False
print("bytes of stack, at most")
for function in sorted(name for name in frames if name.startswith("lb_")):
    most, chain = depth(function)
    over = most > bounds.get(function, most)
    failed |= over
    print(f"{most:6}  {function}{f'  MORE THAN {bounds[function]}' if over else ''}")
    if over:
        print("        " + " ".join(f"{part}:{frames[part]}" for part in chain))
missing = bounds.keys() - frames.keys()
if missing:
    sys.exit(f"not there: {sorted(missing)}")
sys.exit(failed)
