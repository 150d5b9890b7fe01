"""What the Python package netflow 0.12.2 makes of datagrams.

Reads lines of hex, a datagram each, of one capture; writes a line of JSON for
each of them: the version, the flows, the number of options records (the package
tells them apart in v9 only), or why there are none. As the package's own
collector does, a datagram without its template is tried again whenever new
templates came.
"""
import contextlib
import json
import resource
import signal
import sys

import netflow
from netflow.ipfix import IPFIXTemplateNotRecognized
from netflow.v9 import V9TemplateNotRecognized

# On some malformed datagrams the package never ends, and takes memory meanwhile.
SECONDS, OCTETS = 5, 1 << 30
resource.setrlimit(resource.RLIMIT_AS, (OCTETS, OCTETS))


def stop(*_):
    raise TimeoutError


signal.signal(signal.SIGALRM, stop)
templates = {"netflow": {}, "ipfix": {}}


def plain(value):
    return value.hex() if isinstance(value, bytes) else value


def attempt(octets):
    """The package's flows of a datagram, and whether it brought templates."""
    out = {"version": int.from_bytes(octets[:2], "big"), "flows": [], "options": 0}
    signal.alarm(SECONDS)
    try:
        export = netflow.parse_packet(octets, templates)
        out["flows"] = [{k: plain(v) for k, v in f.data.items()} for f in export.flows]
        if out["version"] == 9:
            out["options"] = len(export.options)
        return out, out["version"] > 8 and export.contains_new_templates
    except (V9TemplateNotRecognized, IPFIXTemplateNotRecognized):
        out["error"] = "no template"
    except Exception as e:  # the package raises whatever its parts do
        out["error"] = "endless" if isinstance(e, (TimeoutError, MemoryError)) else type(e).__name__
        if out["error"] == "error":
            out["error"] = "struct.error"
        if "hexadecimal" in str(e):
            out["error"] = "taken for hex"
    finally:
        signal.alarm(0)
    return out, False


def main():
    results, waiting = [], []
    for line in sys.stdin:
        octets = bytes.fromhex(line)
        out, new = attempt(octets)
        results.append(out)
        if out.get("error") == "no template":
            waiting.append((len(results) - 1, octets))
        while new and waiting:
            new, again, waiting = False, waiting, []
            for i, octets in again:
                results[i], more = attempt(octets)
                new = new or more
                if results[i].get("error") == "no template":
                    waiting.append((i, octets))
    return results


with contextlib.redirect_stdout(sys.stderr):
    found = main()
for result in found:
    print(json.dumps(result))
