"""Names of buckets and objects. On disk they mean nothing (see blobs.py); here each names exactly one place."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from starlette.requests import Request

from local.api.errors import ApiError, storage_error
from local.api.http import raw_path

PATH = "/storage/v1/"
KEY = re.compile(r"[\w/!\-.*'() &$@=;:+,?]+\Z", re.ASCII)
BUCKET = re.compile(r"[\w!\-.*'() &$@=;:+,?]{1,100}\Z", re.ASCII)
WHOLE = re.compile(r"[0-9]{1,9}\Z")
LONGEST_KEY = 1024


@dataclass(frozen=True)
class Place:
    bucket: str
    name: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.name}"


def refused(message: str) -> ApiError:
    return storage_error(400, "InvalidRequest", message)


def no_bucket() -> ApiError:
    return storage_error(404, "Bucket not found", "Bucket not found")


def no_object() -> ApiError:
    return storage_error(404, "not_found", "Object not found")


def checked_key(name: object) -> str:
    text = name if isinstance(name, str) else ""
    if not KEY.match(text) or len(text) > LONGEST_KEY or {"", ".", ".."} & set(text.split("/")):
        raise storage_error(400, "InvalidKey", f"Invalid key: {str(name)[:200]}")
    return text


def checked_bucket(name: object) -> str:
    text = name if isinstance(name, str) else ""
    if BUCKET.match(text) and text.strip() == text and text not in {".", ".."}:
        return text
    raise storage_error(400, "Invalid Input", "Bucket name invalid")


def place_of(steps: list[str]) -> Place:
    return Place(checked_bucket(steps[0] if steps else ""), checked_key("/".join(steps[1:])))


def bucket_of(steps: list[str]) -> str:
    if len(steps) != 1:
        raise refused("The address must end with the bucket")
    return checked_bucket(steps[0])


def steps_of(request: Request) -> list[str]:
    """The steps of the path as it was sent; a `..` stays one and is refused as a name."""
    steps = [unquote(step) for step in raw_path(request).removeprefix(PATH).split("/")]
    return steps[:-1] if len(steps) <= 2 and steps[-1] == "" else steps  # noqa: PLR2004 - e.g. bucket/


def whole(value: object, otherwise: int | None) -> int | None:
    if value is None:
        return otherwise
    if isinstance(value, int | str) and not isinstance(value, bool) and WHOLE.match(str(value)):
        return int(value)
    raise refused(f"'{value}' is not a whole number")
