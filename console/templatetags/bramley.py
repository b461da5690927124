"""What the admin's templates say often: times, states, charts, and the cells of lists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from typing import Any
from urllib.parse import urlencode

from django import template
from django.contrib.admin.helpers import AdminReadonlyField
from django.contrib.admin.templatetags.admin_list import (
    ResultList,
    result_headers,
    result_hidden_fields,
)
from django.contrib.admin.templatetags.admin_list import results as editable_results
from django.contrib.admin.templatetags.admin_urls import add_preserved_filters
from django.contrib.admin.utils import display_for_field, display_for_value, lookup_field
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import FieldDoesNotExist, ObjectDoesNotExist
from django.db import models
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext as _

from audit.wording import action_in_words
from console import charts, states, words
from console.sections import NAMES, section_of

register = template.Library()
register.filter(action_in_words)


@register.filter
def ago(value: datetime | None) -> SafeString | str:
    """``5 minutes ago`` or ``in 29 days``, with the moment itself as title; ``never`` for nothing."""
    if value is None:
        return format_html('<span class="quiet">{}</span>', _("never"))
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        value.isoformat(timespec="seconds"),
        words.moment(value),
        words.relative(value, timezone.now()),
    )


@register.filter
def moment(value: datetime | None) -> SafeString | str:
    """The moment in the viewer's time zone, and how far away it is."""
    if value is None:
        return "-"
    return format_html(
        '<time datetime="{}">{}</time> <span class="quiet">({})</span>',
        value.isoformat(timespec="seconds"),
        words.moment(value),
        words.relative(value, timezone.now()),
    )


@register.filter
def moment_text(value: datetime) -> str:
    """The moment as plain text, for titles."""
    return words.moment(value)


@register.filter
def thousands(count: int) -> str:
    """``12 345``, with narrow spaces that don't break."""
    return words.thousands(count)


@register.filter
def badge(instance: models.Model, field_name: str = "state") -> SafeString | str:
    """The state of an object as a coloured word: ``{{ delivery|badge:"state" }}``."""
    value = getattr(instance, field_name)
    return state_badge(value, getattr(instance, f"get_{field_name}_display")())


@register.simple_tag
def state_badge(value: object, label: object = "", tone: str = "") -> SafeString | str:
    """A coloured word for a state: ``{% state_badge "SENT" "sent, waiting for the answer" %}``."""
    if value in (None, ""):
        return "-"
    look = states.look(value)
    full = str(label or value)
    return format_html(
        '<span class="badge tone-{}" title="{}">{}</span>', tone or look.tone, full, look.short or full
    )


@register.simple_tag
def bar_chart(parts: Sequence[charts.Part]) -> SafeString:
    """Labelled bars: see :func:`console.charts.bars`."""
    return charts.bars(parts)


@register.simple_tag
def progress_chart(counts: Sequence[charts.Part] | dict[str, int]) -> SafeString:
    """One bar by state. Takes parts, or simply ``{"QUEUED": 3, "ACKNOWLEDGED": 7}``."""
    if isinstance(counts, dict):
        counts = [
            charts.Part(states.look(value).short or value.lower(), count, states.look(value).tone)
            for value, count in counts.items()
        ]
    return charts.progress(counts)


@register.simple_tag
def section_name(opts: Any) -> str:
    """In which part of the console a model is: ``{% section_name opts %}``."""
    section = section_of(opts.label_lower)
    return str(section.title if section else opts.app_config.verbose_name)


@register.simple_tag
def list_name(opts: Any) -> str:
    """What the list of a model is called, as in the table of contents: ``{% list_name opts %}``."""
    return str(NAMES.get(opts.label_lower) or capfirst(opts.verbose_name_plural))


@register.simple_tag
def activity_url(instance: models.Model, user: Any) -> str:
    """The record of what was done to an object; empty for who may not see it."""
    if instance._meta.app_label == "audit" or not user.has_perm("audit.view_auditevent"):
        return ""
    query = {"target_kind__exact": instance._meta.label_lower, "target_id__exact": instance.pk}
    return f"{reverse('admin:audit_auditevent_changelist')}?{urlencode(query)}"


# --- lists ---


@register.inclusion_tag("admin/change_list_results.html")
def bramley_results(cl: ChangeList) -> dict[str, Any]:
    """Django's ``result_list`` with times in words and states as badges, for every list of every app."""
    headers = list(result_headers(cl))
    return {
        "cl": cl,
        "result_hidden_fields": list(result_hidden_fields(cl)),
        "result_headers": headers,
        "num_sorted_fields": sum(1 for header in headers if header["sortable"] and header["sorted"]),
        "results": list(editable_results(cl))
        if cl.formset
        else [ResultList(None, _cells(cl, row)) for row in cl.result_list],
    }


def _cells(cl: ChangeList, row: models.Model) -> Iterator[SafeString]:
    first = True
    for index, name in enumerate(cl.list_display):
        is_link = _links(cl, name, first)
        shown, classes = _shown(cl, row, name, is_link)
        classes.insert(0, "action-checkbox" if name == "action_checkbox" else f"field-{_name(name, index)}")
        tag = "th" if is_link and first else "td"
        if is_link:
            first = False
            shown = _link(cl, row, shown)
        yield format_html('<{} class="{}">{}</{}>', tag, " ".join(classes), shown, tag)


def _shown(cl: ChangeList, row: models.Model, name: Any, is_link: bool) -> tuple[str | SafeString, list[str]]:
    """What a cell says, and its classes."""
    empty = cl.model_admin.get_empty_value_display()
    try:
        field, attr, value = lookup_field(name, row, cl.model_admin)
    except ObjectDoesNotExist:
        return empty, []
    empty = getattr(attr, "empty_value_display", empty)
    if isinstance(value, datetime):
        return ago(value), ["nowrap"]
    if isinstance(value, date | time):
        return display_for_value(value, empty), ["nowrap"]
    if field is None or field.auto_created:
        return display_for_value(value, empty, _is_boolean(attr)), []
    if field.name in states.STATE_FIELDS and field.flatchoices:
        return badge(row, field.name), ["nowrap"]
    if isinstance(field.remote_field, models.ManyToOneRel):
        related = getattr(row, field.name)
        return empty if related is None else str(related), []
    return display_for_field(value, field, empty, avoid_link=is_link), []


def _is_boolean(attr: Any) -> bool:
    return bool(getattr(attr.fget if isinstance(attr, property) else attr, "boolean", False))


def _links(cl: ChangeList, name: Any, first: bool) -> bool:
    links: Any = cl.list_display_links
    if links is None or name == "action_checkbox":
        return False
    return first if not links else name in links


def _link(cl: ChangeList, row: models.Model, shown: str | SafeString) -> str | SafeString:
    try:
        url = cl.url_for_result(row)
    except NoReverseMatch:
        return shown
    url = add_preserved_filters({"preserved_filters": cl.preserved_filters, "opts": cl.opts}, url)
    if not cl.is_popup:
        return format_html('<a href="{}">{}</a>', url, shown)
    key = row.serializable_value(str(cl.to_field) if cl.to_field else cl.lookup_opts.pk.attname)
    return format_html('<a href="{}" data-popup-opener="{}">{}</a>', url, key, shown)


def _name(name: Any, index: int) -> str:
    if not callable(name):
        return str(name)
    return f"lambda{index}" if name.__name__ == "<lambda>" else str(name.__name__)


# --- detail pages ---


@register.filter
def contents(field: AdminReadonlyField) -> str | SafeString:
    """A read-only field of a detail page: states as badges, times with their distance from now,
    yes and no in words."""
    name = field.field["field"]
    instance = field.form.instance
    try:
        concrete = instance._meta.get_field(name) if isinstance(name, str) else None
    except FieldDoesNotExist:
        concrete = None
    if isinstance(concrete, models.DateTimeField):
        return moment(getattr(instance, concrete.name))
    if isinstance(concrete, models.BooleanField):  # no red cross for what is simply not so
        return {True: _("yes"), False: _("no")}.get(getattr(instance, concrete.name), "-")
    if isinstance(concrete, models.Field) and concrete.name in states.STATE_FIELDS and concrete.flatchoices:
        value = getattr(instance, concrete.name)
        full = dict(concrete.flatchoices).get(value, value)
        short = states.look(value).short
        if short and str(short) != str(full):
            return format_html('{} <span class="quiet">{}</span>', state_badge(value, full), full)
        return state_badge(value, full)
    return field.contents()
