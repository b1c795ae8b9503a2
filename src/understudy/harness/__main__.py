"""`python -m understudy.harness` is lm-eval's own command, with the model `understudy` registered.

lm-eval looks for models in its own folder only, so that somebody has to import ours first.
"""

import sys

from understudy.errors import UnderstudyError


def main() -> None:
    """Run lm-eval's command. What the user can mend is one line on standard error, and status 2."""
    try:
        import understudy.harness.model  # noqa: F401, I001 - registers, and says what is missing
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except UnderstudyError as error:
        print(f"understudy: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
