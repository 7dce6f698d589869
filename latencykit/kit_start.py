"""Starts a kit: `kit make` copies this file into it as `run.py`. It parses on any Python, to say what is missing."""

import os
import sys

if __name__ == "__main__":
    folder = os.path.dirname(os.path.abspath(__file__))
    if sys.version_info < (3, 11):
        found = sys.version.split()[0]
        sys.stderr.write("error: this kit needs Python 3.11 or later, and " + sys.executable + " is " + found + ".\n")
        sys.exit(5)
    sys.path[:0] = [folder, os.path.join(folder, "packages")]

    from importlib import import_module

    wanted = ("numpy", "onnx", "onnxruntime")
    missing = []
    for name in wanted:
        try:
            import_module(name)
        except ImportError as error:
            missing.append("error: " + name + " cannot be imported: " + str(error) + "\n")
    if missing:
        python = '"' + sys.executable + '"' if " " in sys.executable else sys.executable
        wheels = " --no-index --find-links wheels" if os.path.isdir(os.path.join(folder, "wheels")) else ""
        sys.stderr.write("".join(missing))
        sys.stderr.write("Put them beside this file, which needs no rights, and run it again:\n")
        sys.stderr.write("  cd " + folder + "\n")
        sys.stderr.write("  " + python + " -m pip install" + wheels + " --target packages " + " ".join(wanted) + "\n")
        if not wheels:
            sys.stderr.write("Without a network: make the kit with --wheels PLATFORM, such as win_amd64.\n")
        sys.exit(5)

    from latencykit.kit_runner import main

    sys.exit(main(folder, sys.argv[1:]))
