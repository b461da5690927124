"""What the TLS check found, in sentences for an administrator: what it is, and what to do."""

from __future__ import annotations

from django.utils import formats, timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _now
from django.utils.translation import gettext_lazy as _

from pki.core.server_trust import Finding
from pki.records import grouped

SENTENCES: dict[str, str | Promise] = {
    "public_root": _("The chain ends in a public root, %(name)s. Devices have it: nothing to do."),
    "root_in_profile": _(
        "The chain ends in a private root, %(name)s. Every enrolment profile carries exactly this one, "
        "so devices believe the server as soon as the profile is installed. Before that, people see a "
        "warning."
    ),
    "root_not_in_profile": _(
        "The chain ends in a private root, %(name)s, which no enrolment profile carries. Add it under "
        "Roots for TLS, and compare the fingerprint: SHA-256 %(sha256)s."
    ),
    "our_root_not_in_profile": _(
        "The certificate was issued by a root of ours, %(issuer)s, which enrolment profiles do not carry "
        "for the server's TLS. Add it under Roots for TLS: SHA-256 %(sha256)s."
    ),
    "our_ca_not_shown": _(
        "%(name)s was issued by a CA of ours, %(issuer)s, whose certificate the server does not show. "
        "Add it to the file with the server's chain."
    ),
    "issuer_missing": _(
        "The way to a root ends at %(name)s. It was issued by %(issuer)s, which is neither shown by the "
        "server nor a root that devices have. If that is an intermediate CA, add its certificate to the "
        "file with the server's chain. If it is a private root, add it under Roots for TLS."
    ),
    "self_signed": _(
        "The server shows a certificate that it signed itself, %(name)s. No device believes it. Use a "
        "public certificate, one of your own CA, or manage.py start --tls."
    ),
    "no_certificate": _("The server shows no certificate."),
    "unreadable": _("The server shows a certificate that cannot be read: %(reason)s."),
    "no_alternative_name": _(
        "The certificate has no subject alternative name. Devices do not look at the common name: it has "
        "to name %(host)s."
    ),
    "other_name": _("The certificate is for another host: it names %(names)s, and devices go to %(host)s."),
    "expired": _("%(name)s expired on %(at)s."),
    "not_yet_valid": _("%(name)s is not valid before %(at)s. Is the clock of this server right?"),
    "expires_soon": _("%(name)s expires on %(at)s. After that devices no longer talk to the server."),
    "not_for_servers": _(
        "The certificate does not say that it is for servers. Devices want the extended key usage serverAuth."
    ),
    "is_ca": _("The server uses the certificate of a CA as its own. Some devices refuse that."),
    "valid_too_long": _(
        "The certificate is valid for %(days)d days. Devices take at most %(limit)d from such a root."
    ),
    "weak_signature": _(
        "%(name)s is signed with %(digest)s, which devices refuse. SHA-256 or better is needed."
    ),
    "short_key": _("The RSA key of %(name)s has %(bits)d bits. Devices want at least 2048."),
    "path_refused": _("The chain breaks a rule: %(reason)s."),
    "old_protocol": _("The server speaks %(protocol)s only. Devices want TLS 1.2 or 1.3."),
    "another_server": _(
        "Somebody else answers at this address: it does not hand out the certificate of the CA of this "
        "server. Look at the name in the DNS and at the proxy."
    ),
    "no_answer": _(
        "The connection stands, but this server's own page did not come through it. Look at the proxy "
        "behind it."
    ),
    "not_https": _(
        "The address %(url)s is not https. Apple devices refuse to enrol there. Set BRAMLEY_PUBLIC_URL."
    ),
    "not_reached_address": _(
        "The name in %(url)s is not known to the DNS of this server: %(reason)s. Devices may ask another DNS."
    ),
    "not_reached_connect": _(
        "Nothing answers at %(url)s, seen from this server: %(reason)s. Devices may come from another "
        "network."
    ),
    "not_reached_handshake": _("What answers at %(url)s does not speak TLS with us: %(reason)s."),
}


def sentence(finding: Finding) -> str:
    """The finding in the language of the moment, times in the zone of the viewer."""
    values = dict(finding.values)
    if "at" in values:
        local = timezone.localtime(values["at"])
        values["at"] = formats.date_format(local, "Y-m-d H:i")
    if "sha256" in values:
        values["sha256"] = grouped(values["sha256"])
    if "names" in values:
        values["names"] = ", ".join(values["names"])
    if values.get("is_server"):
        values["name"] = _now("The server's certificate")
    return str(SENTENCES[finding.code]) % values
