#!/usr/bin/env python3
"""Writes a shim that carries `wws`: one-file.py SHIM WWS OUTPUT.

The format is that of shim/src/server/payload.rs.
"""

import hashlib
import os
import struct
import sys
import zlib

MAGIC = b"\0wws-carried-v1\n"


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__.splitlines()[0])
    shim_path, program_path, output = sys.argv[1:]
    with open(shim_path, "rb") as file:
        shim = file.read()
    if shim.endswith(MAGIC):
        sys.exit(f"{shim_path} carries a server already")
    with open(program_path, "rb") as file:
        program = file.read()
    compressed = zlib.compress(program, 9)
    digest = hashlib.sha256(program).digest()
    trailer = struct.pack("<QQ", len(compressed), len(program)) + digest + MAGIC
    partial = f"{output}.partial"
    with open(partial, "wb") as file:
        file.write(shim + compressed + trailer)
    os.chmod(partial, 0o755)
    os.replace(partial, output)
    print(f"{output}: {len(shim) + len(compressed) + len(trailer):,} bytes")


if __name__ == "__main__":
    main()
