"""Decodes datagrams with the Python package netflow 0.12.2.

Reads the datagrams of one capture from standard input, a line of hex each.
Writes a line of JSON for each: the version, the flows, the number of options
records (the package distinguishes them from flows in v9 only), or the error.
Like the package's own collector, it retries a datagram whose template was
missing after each datagram with new templates.
"""
import contextlib
import json
import resource
import signal
import sys

import netflow
from netflow.ipfix import IPFIXTemplateNotRecognized
from netflow.v9 import V9TemplateNotRecognized

# On some malformed datagrams the package loops forever and allocates memory.
SECONDS, OCTETS = 5, 1 << 30
resource.setrlimit(resource.RLIMIT_AS, (OCTETS, OCTETS))


def stop(*_):
    raise TimeoutError


signal.signal(signal.SIGALRM, stop)
templates = {"netflow": {}, "ipfix": {}}


def plain(value):
    return value.hex() if isinstance(value, bytes) else value


def attempt(octets):
    """Return the package's decode of a datagram, and whether it had new templates."""
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
    except Exception as e:  # the package documents no exceptions
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
