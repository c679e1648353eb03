"""Half of the requests about a session are about one that lives: a random id is gone before a body is read."""

import atexit
import collections
import json
import os
import urllib.request

import schemathesis

# The last one made is replaced when an operation may have ended it.
_living = []


def _new_session():
    request = urllib.request.Request(
        f"{os.environ['FANLINE_API']}/apps/fuzz/sessions/new",
        method="POST",
        headers={"Authorization": f"Bearer {os.environ['FANLINE_FUZZ_SECRET']}"},
    )
    with urllib.request.urlopen(request, timeout=5) as response:
        return json.load(response)["sessionId"]


@schemathesis.hook
def before_call(context, case, kwargs):
    is_named = isinstance(case.path_parameters, dict) and "session" in case.path_parameters
    if not is_named or "%" in str(case.path_parameters["session"]):
        return
    before_call.count += 1
    if before_call.count % 2 == 0:
        return
    if not _living or case.method.upper() == "DELETE" or before_call.count % 40 == 1:
        _living.append(_new_session())
    case.path_parameters["session"] = _living[-1]
    if case.method.upper() == "DELETE":
        _living.pop()


before_call.count = 0
_answers = collections.Counter()


@schemathesis.hook
def after_call(context, case, response):
    operation = case.operation.definition.raw.get("operationId", case.path)
    _answers[operation, response.status_code] += 1


@atexit.register
def write_answers():
    with open(os.environ["FANLINE_ANSWERS"], "w") as file:
        for (operation, status), count in _answers.items():
            print(operation, status, count, file=file)
