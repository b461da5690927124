"""What may be done with an issuer in the admin: each act says what it does before it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.helpers import AdminForm
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext, ngettext

from audit.admin import RowPageAdmin
from audit.recording import Actor
from pki import issuers, outlook, retirement, rollover, subordinate
from pki.admin_cells import file_of
from pki.core.certificates import encode_pem
from pki.issuer_forms import (
    MAX_UPLOAD,
    ConfirmForm,
    ImportForm,
    RekeyForm,
    RenewForm,
    RevokeIssuerForm,
    WhenForm,
)
from pki.models import (
    Issuer,
    IssuerCertificate,
    IssuerKey,
    IssuerKeyState,
    IssuerKind,
    IssuerState,
    RevocationReason,
)
from pki.outlook import Statement
from pki.retirement import Consequences

_REFUSALS = (
    rollover.RolloverRefused,
    retirement.RetirementRefused,
    subordinate.ImportRefused,
    issuers.IssuerRefused,
)


@dataclass(frozen=True)
class Act:
    """A page that asks before it acts. ``do`` returns what to say afterwards, or refuses."""

    title: str | Promise
    button: str | Promise
    form: forms.Form
    do: Callable[[dict[str, Any]], str]
    statements: Iterable[Statement] = ()
    danger: bool = False
    details: tuple[str, ...] = field(default_factory=tuple)


class LifePages(RowPageAdmin):
    """Mixed into the admin of issuers."""

    def life_urls(self) -> list[URLPattern]:
        pages: dict[str, Callable[..., HttpResponse]] = {
            "decide": self.decide_view,
            "renew": self.renew_view,
            "rekey": self.rekey_view,
            "activate": self.activate_view,
            "retire": self.retire_view,
            "resume": self.resume_view,
            "revoke": self.revoke_view,
            "request": self.request_view,
            "import": self.import_view,
        }
        view = self.admin_site.admin_view
        return [
            *(
                path(f"<int:pk>/{name}/", view(page), name=f"pki_issuer_{name}")
                for name, page in pages.items()
            ),
            path("<int:pk>/close/<int:generation>/", view(self.close_view), name="pki_issuer_close"),
            path("<int:pk>/request.csr", view(self.download_request), name="pki_issuer_csr"),
            path("<int:pk>/<str:what>.pem", view(self.download_chain), name="pki_issuer_chain"),
        ]

    # --- looking ---

    def decide_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Renew or re-key? What will and what will not validate afterwards."""
        issuer = self._issuer(request, pk, change=False)
        try:
            found = outlook.outlook(issuer, timezone.now())
        except issuers.IssuerMissing:
            raise Http404 from None
        context = {
            **self._context(request, issuer, gettext("Renew or re-key?")),
            "outlook": found,
            "may_change": self.has_change_permission(request, issuer),
            "made_here": issuer.kind in rollover.SELF_MADE,
            "next_key": issuers.next_key(issuer),
        }
        return TemplateResponse(request, "admin/pki/issuer/decide.html", context)

    def download_request(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The certification request that is not answered yet, PEM."""
        issuer = self._issuer(request, pk, change=False)
        waiting = waiting_request(issuer)
        if waiting is None:
            raise Http404
        return file_of(
            subordinate.request_pem(bytes(waiting.signing_request)).encode(),
            "application/pkcs10",
            f"{issuer.slug}-{waiting.generation}.csr",
        )

    def download_chain(self, request: HttpRequest, pk: int, what: str) -> HttpResponse:
        """``chain``: the certificate in use and those above. ``bundle``: every generation, and the links."""
        issuer = self._issuer(request, pk, change=False)
        try:
            found = {"chain": issuers.chain, "bundle": issuers.trust_bundle}[what](issuer)
        except (KeyError, issuers.IssuerMissing):
            raise Http404 from None
        pem = "".join(encode_pem(der) for der in found)
        return file_of(pem.encode(), "application/x-pem-file", f"{issuer.slug}-{what}.pem")

    # --- acting ---

    def renew_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """A new certificate for the same key."""
        issuer = self._issuer(request, pk)
        found = self._outlook(issuer)
        form = RenewForm(
            _posted(request),
            initial={"years": _years(found.certificate), "replaces": found.certificate.pk},
        )

        def do(wanted: dict[str, Any]) -> str:
            made = rollover.renew(
                issuer,
                years=wanted["years"],
                replaces=wanted["replaces"],
                actor=Actor.of_request(request),
                now=timezone.now(),
            )
            return gettext("Renewed: the new certificate is valid until %(ends)s.") % {"ends": _day(made)}

        act = Act(gettext("Renew the CA certificate"), gettext("Renew"), form, do, found.renewal)
        return self._ask(request, issuer, act)

    def rekey_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """A new key, with its own certificate, links and list."""
        issuer = self._issuer(request, pk)
        found = self._outlook(issuer)
        algorithm = found.current.issuer_key.algorithm
        form = RekeyForm(
            _posted(request), initial={"algorithm": algorithm, "years": _years(found.certificate)}
        )
        if issuer.kind not in rollover.SELF_MADE:
            del form.fields["years"]
            form.leave_out_now()

        def do(wanted: dict[str, Any]) -> str:
            now = timezone.now()
            made = rollover.rekey(
                issuer,
                algorithm=wanted["algorithm"],
                years=wanted.get("years"),
                activate_at=wanted["activate_at"] if wanted["when"] == "at" else None,
                key_location=wanted["key_location"].strip(),
                actor=Actor.of_request(request),
                now=now,
            )
            if issuer.kind not in rollover.SELF_MADE:
                return gettext(
                    "The new key is made. Now fetch its request, and have the external CA sign it."
                )
            if wanted["when"] == "now":
                rollover.activate(issuer, actor=Actor.of_request(request), now=now)
                return gettext("Key %(generation)d is in use.") % {"generation": made.generation}
            return gettext("Key %(generation)d is made. It is not in use yet.") % {
                "generation": made.generation
            }

        act = Act(gettext("Make a new key"), gettext("Make the new key"), form, do, found.rekey)
        return self._ask(request, issuer, act)

    def activate_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """When the next key takes over."""
        issuer = self._issuer(request, pk)
        made = issuers.next_key(issuer)
        if made is None:
            raise Http404
        planned = made.activate_at
        form = WhenForm(
            _posted(request), initial={"when": "at" if planned else "by hand", "activate_at": planned}
        )

        def do(wanted: dict[str, Any]) -> str:
            now = timezone.now()
            if wanted["when"] == "now":
                rollover.activate(issuer, actor=Actor.of_request(request), now=now)
                return gettext("Key %(generation)d is in use.") % {"generation": made.generation}
            at = wanted["activate_at"] if wanted["when"] == "at" else None
            rollover.schedule(issuer, at, actor=Actor.of_request(request), now=now)
            return gettext("The time is set.") if at else gettext("The key waits to be activated by hand.")

        act = Act(
            gettext("Activate key %(generation)d") % {"generation": made.generation},
            gettext("Save"),
            form,
            do,
            activation_statements(issuer),
        )
        return self._ask(request, issuer, act)

    def close_view(self, request: HttpRequest, pk: int, generation: int) -> HttpResponse:
        """Stop trusting a generation, or discard the next one."""
        issuer = self._issuer(request, pk)
        issuer_key = issuer.keys.filter(
            generation=generation, state__in=(IssuerKeyState.PREVIOUS, IssuerKeyState.NEXT)
        ).first()
        if issuer_key is None:
            raise Http404
        now = timezone.now()
        live = issuers.live_count(issuer_key, now)
        form = ConfirmForm(_posted(request), slug=issuer.slug) if live else forms.Form(_posted(request))

        def do(wanted: dict[str, Any]) -> str:
            rollover.close(issuer_key, actor=Actor.of_request(request), now=timezone.now(), force=bool(live))
            return gettext("Key %(generation)d is closed.") % {"generation": generation}

        discard = issuer_key.state == IssuerKeyState.NEXT
        title = gettext("Discard key %(generation)d") if discard else gettext("Close key %(generation)d")
        concerned = retirement.consequences(issuer, now, issuer_key=issuer_key)
        act = Act(
            title % {"generation": generation},
            gettext("Discard") if discard else gettext("Close"),
            form,
            do,
            closing_statements(live, concerned),
            danger=bool(live),
            details=_elsewhere(concerned),
        )
        return self._ask(request, issuer, act)

    def retire_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Issue nothing new."""
        issuer = self._issuer(request, pk)

        def do(wanted: dict[str, Any]) -> str:
            retirement.retire(issuer, actor=Actor.of_request(request), now=timezone.now())
            return gettext("%(name)s issues nothing new from now on.") % {"name": issuer.name}

        concerned = retirement.consequences(issuer, timezone.now())
        act = Act(
            gettext("Retire the issuer"),
            gettext("Retire"),
            forms.Form(_posted(request)),
            do,
            retiring_statements(concerned),
        )
        return self._ask(request, issuer, act)

    def resume_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Issue again."""
        issuer = self._issuer(request, pk)

        def do(wanted: dict[str, Any]) -> str:
            retirement.resume(issuer, actor=Actor.of_request(request), now=timezone.now())
            return gettext("%(name)s issues certificates again.") % {"name": issuer.name}

        statement = Statement("info", gettext("It issues certificates again, with the same key and name."))
        act = Act(
            gettext("Take the issuer into use again"),
            gettext("Take into use"),
            forms.Form(_posted(request)),
            do,
            [statement],
        )
        return self._ask(request, issuer, act)

    def revoke_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """The end of the issuer and of everything that it issued."""
        issuer = self._issuer(request, pk)
        form = RevokeIssuerForm(_posted(request), slug=issuer.slug)
        form.order_fields(["reason", "confirm"])
        concerned = retirement.consequences(issuer, timezone.now())

        def do(wanted: dict[str, Any]) -> str:
            ended = retirement.revoke_issuer(
                issuer,
                reason=RevocationReason(wanted["reason"]),
                actor=Actor.of_request(request),
                now=timezone.now(),
            )
            return ngettext(
                "Revoked, and %(count)d certificate with it.",
                "Revoked, and %(count)d certificates with it.",
                ended.certificates,
            ) % {"count": ended.certificates}

        trusted_only = issuer.kind == IssuerKind.TRUST_ONLY
        act = Act(
            gettext("Stop trusting this CA") if trusted_only else gettext("Revoke the issuer"),
            gettext("Stop trusting") if trusted_only else gettext("Revoke"),
            form,
            do,
            revoking_statements(issuer, concerned),
            danger=True,
            details=_elsewhere(concerned),
        )
        return self._ask(request, issuer, act)

    def request_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Make the request for the external CA."""
        issuer = self._issuer(request, pk)

        def do(wanted: dict[str, Any]) -> str:
            subordinate.request_certificate(issuer, actor=Actor.of_request(request), now=timezone.now())
            return gettext("The request is made. Download it here, and have the external CA sign it.")

        act = Act(
            gettext("Ask the external CA for a certificate"),
            gettext("Make the request"),
            forms.Form(_posted(request)),
            do,
            request_statements(issuer),
        )
        return self._ask(request, issuer, act)

    def import_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Take in what the external CA signed."""
        issuer = self._issuer(request, pk)
        form = ImportForm(_posted(request), request.FILES if request.method == "POST" else None)

        def do(wanted: dict[str, Any]) -> str:
            files = [
                wanted[name].read(MAX_UPLOAD + 1) for name in ("certificate", "chain") if wanted.get(name)
            ]
            done = subordinate.import_certificate(
                issuer,
                *files,
                anchor_is_last=wanted["anchor_is_last"],
                actor=Actor.of_request(request),
                now=timezone.now(),
            )
            for note in done.notes:
                self.message_user(request, gettext("Note: %(note)s.") % {"note": note}, messages.WARNING)
            if not done.new:
                return gettext("This certificate was imported before: nothing has changed.")
            return gettext("Imported: valid until %(ends)s.") % {"ends": _day(done.certificate)}

        act = Act(
            gettext("Import the signed certificate"),
            gettext("Import"),
            form,
            do,
            [
                Statement(
                    "info", gettext("Every mismatch is named, and nothing changes until all of it fits.")
                )
            ],
        )
        return self._ask(request, issuer, act)

    # --- pieces ---

    def _issuer(self, request: HttpRequest, pk: int, *, change: bool = True) -> Issuer:
        issuer: Issuer | None = self.get_object(request, str(pk))
        if issuer is None:
            raise Http404
        allowed = self.has_change_permission if change else self.has_view_permission
        if not allowed(request, issuer):
            raise PermissionDenied
        return issuer

    def _outlook(self, issuer: Issuer) -> outlook.Outlook:
        try:
            return outlook.outlook(issuer, timezone.now())
        except issuers.IssuerMissing:
            raise Http404 from None

    def _context(self, request: HttpRequest, issuer: Issuer, title: str | Promise) -> dict[str, Any]:
        return {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": title,
            "issuer": issuer,
            "back": reverse("admin:pki_issuer_change", args=[issuer.pk]),
        }

    def _ask(self, request: HttpRequest, issuer: Issuer, act: Act) -> HttpResponse:
        """Show the page, or do it: a refusal is shown with its reasons, and nothing has changed."""
        form: Any = act.form
        if request.method == "POST" and form.is_valid():
            try:
                text = act.do(form.cleaned_data)
            except _REFUSALS as refused:
                for reason in getattr(refused, "reasons", None) or (refused.reason,):
                    form.add_error(None, _sentence(reason))
            else:
                self.message_user(request, text, messages.SUCCESS)
                return HttpResponseRedirect(reverse("admin:pki_issuer_change", args=[issuer.pk]))
        visible = [name for name, one in form.fields.items() if not one.widget.is_hidden]
        context = {
            **self._context(request, issuer, act.title),
            "act": act,
            "form": form,
            "adminform": AdminForm(form, [(None, {"fields": visible})] if visible else [], {}, (), self),
            "has_file": any(isinstance(one, forms.FileField) for one in form.fields.values()),
        }
        return TemplateResponse(request, "admin/pki/issuer/act.html", context)


# --- In words --------------------------------------------------------------------------------------------


def activation_statements(issuer: Issuer) -> Iterator[Statement]:
    yield Statement("info", gettext("From then on certificates are issued by the new key."))
    yield Statement(
        "good", gettext("The earlier key stays trusted here, and its list goes on, until you close it.")
    )
    if issuer.kind == IssuerKind.ROOT:
        yield Statement(
            "wait",
            gettext("Bring the new root to the devices first: what checks its certificates has to know it."),
        )


def closing_statements(live: int, concerned: Consequences) -> Iterator[Statement]:
    if not live:
        yield Statement("good", gettext("No certificate in force hangs on this key."))
    else:
        yield Statement(
            "bad",
            ngettext(
                "%(count)d certificate in force hangs on this key and is refused from then on.",
                "%(count)d certificates in force hang on this key and are refused from then on.",
                live,
            )
            % {"count": live},
        )
        yield from _enrol_again(concerned)
    yield Statement(
        "info",
        gettext("What other keys of ours certified of it, its links among them, is put on their lists."),
    )
    yield Statement("bad", gettext("That cannot be undone."))


def retiring_statements(concerned: Consequences) -> Iterator[Statement]:
    yield Statement("info", gettext("It issues no certificate from then on; who asks for one is refused."))
    yield Statement(
        "good",
        ngettext(
            "The %(count)d certificate in force stays valid, and lists go on being published.",
            "The %(count)d certificates in force stay valid, and lists go on being published.",
            concerned.certificates,
        )
        % {"count": concerned.certificates},
    )
    if concerned.devices:
        yield Statement(
            "wait",
            gettext(
                "Devices cannot renew their identities here: move them to another issuer before these end."
            ),
        )
    yield Statement("info", gettext("It can be taken into use again at any time."))


def revoking_statements(issuer: Issuer, concerned: Consequences) -> Iterator[Statement]:
    yield Statement(
        "bad",
        ngettext(
            "%(count)d certificate in force is refused from then on.",
            "All %(count)d certificates in force are refused from then on.",
            concerned.certificates,
        )
        % {"count": concerned.certificates},
    )
    yield from _enrol_again(concerned)
    for below in concerned.subordinates:
        yield Statement(
            "bad", gettext("%(name)s below it ends with it.") % {"name": f"{below.name} ({below.slug})"}
        )
    if issuer.kind != IssuerKind.TRUST_ONLY:
        yield Statement(
            "info",
            gettext("Its last list is published now and stays valid as long as its certificate."),
        )
        yield Statement(
            "info",
            gettext("To end it without harm, retire it instead, and revoke it when nothing hangs on it."),
        )
    yield Statement("bad", gettext("That cannot be undone."))


def _enrol_again(concerned: Consequences) -> Iterator[Statement]:
    if concerned.devices:
        yield Statement(
            "bad",
            ngettext(
                "%(count)d device has to enrol again: it cannot be managed until then.",
                "%(count)d devices have to enrol again: they cannot be managed until then.",
                concerned.devices,
            )
            % {"count": concerned.devices},
        )
    else:
        yield Statement("good", gettext("No device has to enrol again."))


def request_statements(issuer: Issuer) -> Iterator[Statement]:
    yield Statement(
        "info",
        gettext("The request holds the name and the public key of this issuer; the private key stays here."),
    )
    if issuer.state == IssuerState.ACTIVE:
        yield Statement("info", gettext("The certificate in use stays in use until the new one is imported."))
    yield Statement(
        "wait",
        gettext(
            "Ask the external CA for a subordinate CA certificate that keeps the name, with the key usages "
            "digitalSignature, keyEncipherment, keyCertSign and cRLSign, and for the certificates above it."
        ),
    )


def waiting_request(issuer: Issuer) -> IssuerKey | None:
    """The key whose request an external CA has not answered yet."""
    return (
        issuer.keys.filter(requested_at__isnull=False)
        .exclude(state=IssuerKeyState.CLOSED)
        .order_by("-generation")
        .first()
    )


def _elsewhere(concerned: Consequences) -> tuple[str, ...]:
    """Certificates that the administrator has to have revoked by the external CA."""
    return tuple(
        gettext("Ask the external CA to revoke serial number %(number)s.") % {"number": row.serial_number}
        for row in concerned.to_revoke_elsewhere
    )


def _posted(request: HttpRequest) -> QueryDict | None:
    """What was sent, also where that is nothing."""
    return request.POST if request.method == "POST" else None


def _years(certificate: IssuerCertificate) -> int:
    """For how many years a certificate was made, as a suggestion for the next."""
    years = round((certificate.not_after - certificate.not_before).days / 365.25)
    return min(max(years, 1), issuers.MAX_YEARS)


def _day(certificate: IssuerCertificate) -> str:
    return f"{timezone.localtime(certificate.not_after):%Y-%m-%d}"


def _sentence(reason: str) -> str:
    return f"{reason[:1].upper()}{reason[1:]}."
