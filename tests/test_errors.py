import pickle

from bcnet_core.errors import ExitCode, data_error, usage_error


def test_an_error_keeps_hints_and_code_between_processes() -> None:
    error = pickle.loads(pickle.dumps(data_error("broken", "mend it")))
    assert (error.message, error.hints, error.exit_code) == ("broken", ("mend it",), ExitCode.BAD_DATA)
    assert usage_error("what?").exit_code == 2
