"""What the scripts beside this one share: functions marked with `case` are run in turn by `run`."""

import sys
import traceback

CASES = []


def case(f):
    CASES.append(f)
    return f


def run():
    """Prints a line for each case; exits with 1 if one failed."""
    failed = 0
    for f in CASES:
        try:
            f()
            print("ok     ", f.__name__)
        except Exception:  # noqa: BLE001
            failed += 1
            print("FAILED ", f.__name__)
            traceback.print_exc(file=sys.stdout)
    print(f"{len(CASES) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
