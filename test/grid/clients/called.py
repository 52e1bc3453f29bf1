"""Which public members of modules have run, seen from outside: nothing in them is replaced."""

import inspect
import sys
import threading

_seen = set()


def _look(frame, event, _argument):
    if event == "call":
        _seen.add(id(frame.f_code))


def watch():
    sys.setprofile(_look)
    threading.setprofile(_look)


def _functions(module):
    """Names and code of what a user of the module may call: functions, methods, properties and their setters."""
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value):
            yield name, inspect.unwrap(value).__code__
        if not inspect.isclass(value):
            continue
        for member, of in vars(value).items():
            if member.startswith("_"):
                continue
            if isinstance(of, property):
                yield f"{name}.{member}", of.fget.__code__
                if of.fset:
                    yield f"{name}.{member}=", of.fset.__code__
            elif inspect.isfunction(of):
                yield f"{name}.{member}", inspect.unwrap(of).__code__


def coverage(modules, senseless):
    """
    What was called, what was forgotten, and what is said to make no sense but is not there or was called after all.
    `senseless` names classes or members.
    """
    known, called = set(), set()
    for module in modules:
        for name, code in _functions(module):
            known.add(name)
            if id(code) in _seen:
                called.add(name)

    def excused(name):
        return name in senseless or name.split(".")[0] in senseless

    stale = [n for n in senseless if not any(k == n or k.startswith(n + ".") for k in known)]
    return {
        "called": len(called),
        "forgotten": sorted(n for n in known - called if not excused(n)),
        "excusedInVain": sorted(stale + [n for n in called if excused(n)]),
    }
