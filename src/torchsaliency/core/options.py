"""From a user's words to an option's value: methods and metrics are read alike."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter, ValidationError

from torchsaliency.core.errors import OptionError


def parsed_option(name: str, key: str, value: Any, hint: Any) -> Any:
    """Return an option's value of the hinted type, from a value or from its words.

    Words may be JSON, or several with commas ("0.1,0.2").

    Raises:
        OptionError: the value does not fit.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(hint)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        if isinstance(value, str):
            try:
                return adapter.validate_json(value)
            except ValidationError:
                pass
            if "," in value:
                return parsed_option(name, key, value.split(","), hint)
        reason = error.errors()[0]["msg"]
        raise OptionError(f"{name}.{key}={value!r} does not fit: {reason}.") from None
