"""The command line, in this process."""

from vocabpress.cli import main


def run(capsys, *arguments):
    """Exit code, stdout and stderr."""
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err
