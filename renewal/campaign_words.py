"""What a campaign, and each of its steps, will do: in words for administrators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.utils.translation import gettext, ngettext, ngettext_lazy

from pki.outlook import Statement
from renewal.campaigns import Preview
from renewal.figures import Figures


def beginning_statements(preview: Preview) -> Iterator[Statement]:
    """What a campaign will do, one step after the other."""
    count = preview.figures.on_old
    if preview.is_active:
        yield Statement(
            "info",
            gettext("Key %(generation)d is in use already, so the campaign begins with the new certificates.")
            % {"generation": preview.new_key.generation},
        )
    else:
        yield Statement(
            "info",
            gettext(
                "1. Devices get the new root as a profile, some at a time. They notice nothing else, and go "
                "on with the certificates that they have."
            ),
        )
        yield Statement(
            "info",
            gettext(
                "2. When enough of them have it, key %(generation)d takes over: from then on it issues. You "
                "do that, or it happens by itself, as you choose below."
            )
            % {"generation": preview.new_key.generation},
        )
    yield Statement(
        "info",
        ngettext(
            "%(step)sThen %(count)d device gets a new certificate of the new key. It stays enrolled and "
            "keeps its commands and its history; nobody has to touch it.",
            "%(step)sThen %(count)d devices get a new certificate of the new key, in waves. They stay "
            "enrolled and keep their commands and their history; nobody has to touch them.",
            count,
        )
        % {"count": count, "step": "" if preview.is_active else "3. "},
    )
    yield Statement(
        "info",
        gettext(
            "%(step)sAt last, when no device uses an older key any more, you close the older keys. Until "
            "then nothing is cut off, and you can pause or give up at any time."
        )
        % {"step": "" if preview.is_active else "4. "},
    )
    yield Statement(
        "info",
        ngettext(
            "At 60 devices a minute, asking all of them takes about %(count)d minute for each step.",
            "At 60 devices a minute, asking all of them takes about %(count)d minutes for each step.",
            preview.minutes(60),
        )
        % {"count": preview.minutes(60)},
    )
    yield from _counted(
        "wait",
        preview.figures.expired,
        ngettext_lazy(
            "The certificate of %(count)d device has ended already: you will have to let it in for one "
            "renewal.",
            "The certificates of %(count)d devices have ended already: you will have to let them in for "
            "one renewal.",
            "count",
        ),
    )
    yield from _counted(
        "wait",
        preview.figures.silent,
        ngettext_lazy(
            "%(count)d device was not seen for 30 days: the campaign waits for it.",
            "%(count)d devices were not seen for 30 days: the campaign waits for them.",
            "count",
        ),
    )
    yield from _counted(
        "wait",
        preview.figures.authorities,
        ngettext_lazy(
            "%(count)d CA below hangs on an older key: renew it before the end of the campaign.",
            "%(count)d CAs below hang on an older key: renew them before the end of the campaign.",
            "count",
        ),
    )
    yield from _counted(
        "wait",
        preview.figures.leftover,
        ngettext_lazy(
            "%(count)d certificate of an older key belongs to no enrolled device (a server, a person): "
            "the campaign does not replace it, and closing the key ends it.",
            "%(count)d certificates of an older key belong to no enrolled device (servers, persons): "
            "the campaign does not replace them, and closing the key ends them.",
            "count",
        ),
    )


def activation_statements(found: Figures, *, early: bool) -> Iterator[Statement]:
    numbers = {"have": found.installed, "all": found.on_old}
    if early:
        yield Statement(
            "bad",
            gettext(
                "Only %(have)d of %(all)d devices have the new root. Those without it cannot check what the "
                "new key signs: its profiles show as not verified there, and certificates of it are not "
                "believed until their renewal brings the root."
            )
            % numbers,
        )
    else:
        yield Statement("good", gettext("%(have)d of %(all)d devices have the new root.") % numbers)
    yield Statement("info", gettext("From then on certificates are issued by the new key."))
    yield Statement(
        "good", gettext("The older keys stay trusted here, and their lists go on, until you close them.")
    )


def closing_statements(found: Figures) -> Iterator[Statement]:
    if not (found.on_old or found.expired or found.authorities):
        yield Statement("good", gettext("No device in management depends on an older key."))
    yield from _counted(
        "bad",
        found.on_old,
        ngettext_lazy(
            "%(count)d device still uses an older key. It is refused from then on, and has to enrol again.",
            "%(count)d devices still use an older key. They are refused from then on, and have to enrol "
            "again.",
            "count",
        ),
    )
    yield from _counted(
        "bad",
        found.expired,
        ngettext_lazy(
            "%(count)d device whose certificate has ended can no longer be let in, and has to enrol again.",
            "%(count)d devices whose certificates have ended can no longer be let in, and have to enrol "
            "again.",
            "count",
        ),
    )
    yield from _counted(
        "bad",
        found.authorities,
        ngettext_lazy(
            "%(count)d CA below hangs on an older key: what it issued is refused.",
            "%(count)d CAs below hang on an older key: what they issued is refused.",
            "count",
        ),
    )
    yield from _counted(
        "wait",
        found.leftover,
        ngettext_lazy(
            "%(count)d other certificate of an older key is no longer accepted.",
            "%(count)d other certificates of an older key are no longer accepted.",
            "count",
        ),
    )
    yield Statement("bad", gettext("That cannot be undone."))


def _counted(tone: str, count: int, text: Any) -> Iterator[Statement]:
    """A statement of how many, where there are any. ``text``: of ``ngettext_lazy``, by ``count``."""
    if count:
        yield Statement(tone, str(text % {"count": count}))
