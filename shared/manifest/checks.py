"""The fields of a manifest, checked one by one: what may stand there, and what it means."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from shared.errors import NEAREST, BadSource
from shared.manifest import tables
from shared.manifest.fields import HEADER_FIELDS, IMAGE_FIELDS
from shared.manifest.model import ManifestImage
from shared.manifest.problems import Place, Problems, short
from shared.manifest.sources import ALLOWED, SourceRules, resolve
from shared.manifest.vocabulary import ROOM_NAMES, STYLE_NAMES, TIER_NAMES, Vocabulary, plain
from shared.model import FailureThreshold, Tier
from shared.settings import ManifestLimits
from shared.untrusted.text import client_slug, is_hostile

MAX_NAME_CHARACTERS: Final = 200  # client names and property codes: longer ones are pasted by mistake
BATCH_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
BATCH_ID_ALLOWED = "1 to 64 letters, digits, '_', '-' or '.', starting with a letter or digit"
_THRESHOLD = re.compile(r"(\d{1,6}(?:[.,]\d{1,3})?)\s*(%(?:\s*(?:of|de)\s*(\d{1,6}))?)?")
_NEEDED: Final = {  # what would do in a field that may not be left out
    "url": "an https:// address, or a path beside the manifest", "clientName": "the customer's name",
}  # fmt: skip
_DECIMAL: Final = re.compile(r"\d{1,6}[.,]?\d{0,6}")
_FILE: Final = re.compile(r"\.[A-Za-z0-9]{3,5}$")


class Fields(dict[str, Any]):
    """A JSON object that remembers which of its keys appear more than once."""

    __slots__ = ("twice",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.twice: tuple[str, ...] = ()
        if len(self) < len(pairs):
            self.twice = tuple(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)


class Checks:
    """Checks header and images as a reader hands them in, and keeps the images that are right."""

    def __init__(self, limits: ManifestLimits, rules: SourceRules, problems: Problems) -> None:
        self.header: dict[str, Any] | None = None  # None until it was read
        self.images: list[ManifestImage] = []
        self.local: list[str] = []  # addresses of photos on this machine, of bad images too
        self.seen = 0  # images met so far, bad ones too
        self.refused: set[str] = set()  # header fields with a bad value: images need not complain again
        self.is_retry = False  # a round's failed.csv
        self.in_sheet = False
        self._limits = limits
        self._rules = rules
        self._problems = problems
        self._misspelt: set[str] = set()  # fields of the object just read that have another spelling: not missing too
        self._rooms: dict[str, str] = {}  # spellings seen, so that 10,000 images cost one look-up each
        self._styles: dict[str, str] = {}

    def take_header(self, fields: Mapping[str, Any], place: Place) -> None:
        """Check the manifest's own fields and keep them as `header`.

        Raises `ReadingStopped` when there are more problems than are listed.
        """
        self._unknown(fields, HEADER_FIELDS, place)
        plain_text: Callable[..., Any] = self._text
        readers: dict[str, Callable[..., Any]] = {
            "clientName": self._client_name,
            "batchId": self._batch_id,
            "priority": self._tier,
            "roomType": partial(self._choice, known=ROOM_NAMES),
            "designStyle": partial(self._choice, known=STYLE_NAMES),
            "cache": self._yes_or_no,
            "failureThreshold": self._threshold,
        }
        self.header = {name: readers.get(name, plain_text)(fields, name, place) for name in HEADER_FIELDS}
        self.refused = {
            name for name, value in self.header.items() if value is None and fields.get(name) not in (None, "")
        } | self._misspelt

    def _client_name(self, fields: Mapping[str, Any], field: str, place: Place) -> str | None:
        name = self._text(fields, field, place, required=True)
        if name and not client_slug(name):
            self._problems.note("has no letter or digit", place.at(field), field=field, value=name,
                          allowed="a name with at least one of A-Z, 0-9")  # fmt: skip
        return name

    def _batch_id(self, fields: Mapping[str, Any], field: str, place: Place) -> str | None:
        batch_id = self._text(fields, field, place)
        if batch_id and not BATCH_ID.fullmatch(batch_id):
            self._problems.note("is not a batch id", place.at(field), field=field, value=batch_id,
                          allowed=BATCH_ID_ALLOWED)  # fmt: skip
        return batch_id

    def _tier(self, fields: Mapping[str, Any], field: str, place: Place) -> Tier | None:
        tier = self._choice(fields, field, place, TIER_NAMES)
        return Tier(tier) if tier else None

    def _yes_or_no(self, fields: Mapping[str, Any], field: str, place: Place) -> bool | None:
        value = fields.get(field)
        if isinstance(value, str):
            value = None if not value or tables.is_null(value) else tables.YES_NO.get(plain(value), value)
        if type(value) is int and value in (0, 1):  # as databases have it
            value = bool(value)
        if value is None or isinstance(value, bool):
            return value
        self._problems.note("is neither yes nor no", place.at(field), field=field, value=value, allowed="true or false")
        return None

    def _threshold(self, fields: Mapping[str, Any], field: str, place: Place) -> FailureThreshold | None:
        """Return the threshold: a count of images, or a percentage such as "20%".

        A percentage may name its sample: "20% of 50".
        """
        value, place = fields.get(field), place.at(field)
        if value is None or value == "" or (isinstance(value, str) and tables.is_null(value)):
            return None
        value = self._share(value, place)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():  # JSON knows no difference between 50 and 50.0
            value = int(value)
        match = (
            _THRESHOLD.fullmatch(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
        )
        percent = float(match[1].replace(",", ".")) if match and match[2] else None
        sample = int(match[3]) if match and match[3] else None
        if percent is not None and 0 < percent <= 100 and sample != 0:
            return FailureThreshold(percent=percent, minimum_sample=sample)
        if match and not match[2] and match[1].isdigit() and int(match[1]) > 0:
            return FailureThreshold(count=int(match[1]))
        allowed = 'a number of images such as 50, or a percentage such as "20%" or, of at least 50, "20% of 50"'
        self._problems.note("is not a valid threshold", place, field=field, value=value, allowed=allowed)
        return None

    def _share(self, value: Any, place: Place) -> Any:
        """Return a threshold as text, where a table has turned "20%" into 0.2.

        None after noting that the value is ambiguous.
        """
        match = _DECIMAL.fullmatch(value) if isinstance(value, str) else None
        number = float(value.replace(",", ".")) if match else None
        if number is None:
            return value
        if self.in_sheet and number == 1:
            reason, allowed = (
                "is one image or 100 %: a sheet writes both so",
                'a text such as "100%", or another number',
            )
            self._problems.note(reason, place, field="failureThreshold", value=value, allowed=allowed)
            return None
        if 0 < number < 1:
            return f"{number * 100:g}%"
        return str(int(number)) if number.is_integer() else value

    def take_image(self, item: Any, place: Place, index: int | None = None) -> None:
        """Check one image and keep it if nothing is wrong with it; a retry has its `index`.

        Above the images allowed it is only counted. Raises `ReadingStopped` above the problems listed.
        """
        self.seen += 1
        if self.seen > self._limits.max_images:  # only counted, so that the customer knows how to split the file
            return
        if not isinstance(item, dict):
            self._problems.note("is not an object", place, value=item, allowed='an object with "url"')
            return
        before = len(self._problems)
        self._unknown(item, IMAGE_FIELDS, place)
        source, unchecked, path = self._source(item, place)
        if source and source.startswith("file:") and not path:  # a retry's path may lead elsewhere
            self.local.append(source)
        room = self._cached(self._rooms, item, "roomType", ROOM_NAMES, place)
        style = self._cached(self._styles, item, "designStyle", STYLE_NAMES, place)
        code = self._text(item, "propertyCode", place)
        if len(self._problems) == before and source and room and style:
            self.images.append(ManifestImage(source, room, style, code, index, unchecked, path))

    def _unknown(self, fields: Mapping[str, Any], known: tuple[str, ...], place: Place) -> None:
        for name in fields.twice if isinstance(fields, Fields) else ():
            self._problems.note("appears twice", place.at(short(name)), field=short(name), allowed="each field once")
        self._misspelt.clear()
        for name in fields:
            if name not in known:
                meant = next((one for one in known if one.lower() == re.sub(r"[\s_-]", "", name).lower()), None)
                allowed = NEAREST + meant if meant else ", ".join(known)
                self._misspelt.update([meant] if meant else ())
                self._problems.note("is not a field here", place.at(short(name)), field=short(name), allowed=allowed)

    def _source(self, item: Mapping[str, Any], place: Place) -> tuple[str | None, str | None, str | None]:
        """Return the absolute address and, for a retry only, `unchecked` and `path` of `ManifestImage`."""
        url = self._text(item, "url", place, required=True, max_characters=self._limits.max_url_characters)
        if url is None:
            return None, None, None
        if tables.is_null(url) or tables.is_error(url):
            self._problems.note("is a word for nothing, not an address", place.at("url"), field="url", value=url,
                          allowed=ALLOWED)  # fmt: skip
            return None, None, None
        if self.in_sheet and "://" not in url and not _FILE.search(url):
            self._problems.note("is not an address: the cell shows the link's text only", place.at("url"), field="url",
                          value=url, allowed="the address itself as the cell's text")  # fmt: skip
            return None, None, None
        try:
            source = resolve(url, self._rules)
        except BadSource as error:
            if self.is_retry:
                return url, error.reason, None
            self._problems.note(error.reason, place.at("url"), field="url", value=url, allowed=error.allowed)
            return None, None, None
        is_path = self.is_retry and "://" not in url and not url.startswith("/")
        return source, None, url if is_path else None

    def _cached(self, seen: dict[str, str], item: Mapping[str, Any], field: str, names_known: Vocabulary, place: Place
                ) -> str | None:  # fmt: skip
        value = item.get(field)
        if isinstance(value, str) and value in seen:
            return seen[value]
        if value is None or value == "":
            default = self.header[field] if self.header else None
            if default is None and field not in self.refused and field not in self._misspelt:
                self._problems.note("is missing here and in the header", place.at(field), field=field,
                              allowed=f"one of {', '.join(names_known.values)}")  # fmt: skip
            return default
        choice = self._choice(item, field, place, names_known)
        if choice is not None and isinstance(value, str):
            seen[value] = choice
        return choice

    def _choice(self, fields: Mapping[str, Any], field: str, place: Place, known: Vocabulary) -> str | None:
        text = self._text(fields, field, place)
        if text is None:
            return None
        value = known.match(text)
        if value is None:
            nearest = known.nearest(text)
            allowed = NEAREST + ", ".join(nearest) if nearest else "one of " + ", ".join(known.values)
            self._problems.note("is not known", place.at(field), field=field, value=text, allowed=allowed)
        return value

    def _text(self, fields: Mapping[str, Any], field: str, place: Place, *, required: bool = False,
              max_characters: int = MAX_NAME_CHARACTERS) -> str | None:  # fmt: skip
        value = fields.get(field)
        if value is None or value == "":
            if required and field not in self._misspelt:
                reason = "is missing" if value is None else "is empty"
                self._problems.note(reason, place.at(field), field=field, allowed=_NEEDED[field])
            return None
        if not required and not self.is_retry and isinstance(value, str) and tables.is_null(value):
            return None
        if not isinstance(value, str):
            self._problems.note("is not a string", place.at(field), field=field, value=value, allowed="a quoted string")
            return None
        if len(value) > max_characters:
            self._problems.note(
                f"has {len(value)} characters",
                place.at(field),
                field=field,
                value=value,
                allowed=f"at most {max_characters}",
            )
            return None
        if is_hostile(value):
            self._problems.note(
                "contains control characters", place.at(field), field=field, value=value, allowed="printable text"
            )
            return None
        return value
