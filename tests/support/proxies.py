"""Real proxies in front of the product, with the very configurations of docs/proxies."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tests.support.apns import Authority
from tests.support.processes import free_port
from tests.support.services import Missing, Service

DOCUMENTS = Path(__file__).resolve().parents[2] / "docs" / "proxies"


def files_of(document: str) -> dict[str, str]:
    """The files that a page of docs/proxies shows, by the path in their first line."""
    text = (DOCUMENTS / document).read_text()
    found = {}
    for block in re.findall(r"^```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if first := re.match(r"# (/etc/\S+)\n", block):
            found[first[1]] = block
    return found


class Proxy(Service):
    """A proxy that ends TLS for ``application`` (port of 127.0.0.1), with a certificate of ``authority``.

    ``port`` serves people, ``mdm_port`` devices under management. ``header`` passes certificates on.
    """

    document = ""
    header = "X-SSL-Client-Cert"
    host = "127.0.0.1"

    def __init__(self, application: int, authority: Authority) -> None:
        self.program = self.find()
        super().__init__()
        self.mdm_port = free_port()
        self.application = application
        certificate, key = authority.server_certificate()
        (self.folder / "fullchain.pem").write_bytes(certificate)
        (self.folder / "privkey.pem").write_bytes(key)
        self.url = f"https://{self.host}:{self.port}"
        self.mdm_url = f"https://{self.host}:{self.mdm_port}"

    @staticmethod
    def find() -> str:
        """The program. Raises :class:`Missing`."""
        raise NotImplementedError

    @property
    def environment(self) -> dict[str, str]:
        """What the product is told, as the page says."""
        return {
            "BRAMLEY_PUBLIC_URL": self.url,
            "BRAMLEY_MDM_URL": self.mdm_url,
            "BRAMLEY_TRUSTED_PROXIES": "127.0.0.1",
            "BRAMLEY_CLIENT_CERT_HEADER": self.header,
        }

    def files(self) -> dict[str, str]:
        """The files of the page, with ports and paths of this machine."""
        everywhere = [
            ("/etc/ssl/bramley", str(self.folder)),
            ("127.0.0.1:8000", f"127.0.0.1:{self.application}"),
        ]
        found = files_of(self.document)
        for old, new in [*self.replacements(), *everywhere]:
            assert old in found[self.main_file()], f"{self.document} no longer has {old!r}"
            found = {path: text.replace(old, new) for path, text in found.items()}
        return found

    def main_file(self) -> str:
        """The path of the file in which every replacement has to be found."""
        raise NotImplementedError

    def replacements(self) -> list[tuple[str, str]]:
        """What stands in the page, and what stands for it here."""
        raise NotImplementedError


def _program(*names: str) -> str:
    for name in names:
        if found := shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            return found
    raise Missing(f"{names[0]} is not installed")


class Nginx(Proxy):
    document = "nginx.md"

    @staticmethod
    def find() -> str:
        return _program("nginx")

    def main_file(self) -> str:
        return "/etc/nginx/conf.d/bramley.conf"

    def replacements(self) -> list[tuple[str, str]]:
        return [
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
            ("listen 8443 ssl;", f"listen 127.0.0.1:{self.mdm_port} ssl;"),
            ("/etc/nginx/bramley-proxy.conf", f"{self.folder}/bramley-proxy.conf"),
        ]

    def start(self) -> None:
        for path, text in self.files().items():
            (self.folder / Path(path).name).write_text(text)
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {self.folder}/{kind};\n" for kind in kinds)
        (self.folder / "nginx.conf").write_text(
            f"daemon off;\n{'user root;' if os.geteuid() == 0 else ''}\npid {self.folder}/nginx.pid;\n"
            f"error_log {self.folder}/service.log;\nworker_processes 1;\n"
            "events { worker_connections 512; }\n"
            f"http {{\naccess_log off;\n{temporary}include {self.folder}/bramley.conf;\n}}\n"
        )
        self._spawn([self.program, "-p", str(self.folder), "-c", str(self.folder / "nginx.conf")])
        self._wait_for_port()


class Apache(Proxy):
    document = "apache.md"
    _modules = ("mpm_event", "authz_core", "ssl", "headers", "proxy", "proxy_http")

    @staticmethod
    def find() -> str:
        return _program("apache2", "httpd")

    def main_file(self) -> str:
        return "/etc/apache2/sites-available/bramley.conf"

    def replacements(self) -> list[tuple[str, str]]:
        return [
            ("Listen 443\n", f"Listen 127.0.0.1:{self.port}\n"),
            ("Listen 8443\n", f"Listen 127.0.0.1:{self.mdm_port}\n"),
            ("*:443>", f"*:{self.port}>"),
            ("*:8443>", f"*:{self.mdm_port}>"),
        ]

    def start(self) -> None:
        modules = Path("/usr/lib/apache2/modules")
        if not modules.is_dir():
            raise Missing("Apache's modules are not where Debian has them")
        (self.folder / "bramley.conf").write_text(self.files()[self.main_file()])
        lines = [f"LoadModule {name}_module {modules}/mod_{name}.so" for name in self._modules]
        lines += [f"ServerRoot {self.folder}", f"DefaultRuntimeDir {self.folder}", "ServerName 127.0.0.1"]
        lines += [f"PidFile {self.folder}/apache.pid", f"ErrorLog {self.folder}/service.log"]
        lines += [f"Include {self.folder}/bramley.conf"]
        if os.geteuid() == 0:
            lines.insert(1, "User www-data\nGroup www-data")
        (self.folder / "apache.conf").write_text("\n".join(lines) + "\n")
        self._spawn([self.program, "-f", str(self.folder / "apache.conf"), "-DFOREGROUND"])
        self._wait_for_port()


class Caddy(Proxy):
    document = "caddy.md"
    header = "Client-Cert"
    host = "localhost"  # where it asks for certificates it insists on a name in TLS, equal to that in HTTP

    @staticmethod
    def find() -> str:
        return _program("caddy")

    def main_file(self) -> str:
        return "/etc/caddy/Caddyfile"

    def replacements(self) -> list[tuple[str, str]]:
        return [
            ("mdm.example.com:443 {", f"{self.url} {{"),
            ("mdm.example.com:8443 {", f"{self.mdm_url} {{"),
        ]

    def start(self) -> None:
        options = ("admin off", "auto_https disable_redirects", f"storage file_system {self.folder}/storage")
        here = "{\n" + "".join(f"\t{option}\n" for option in options) + "}\n"
        file = self.folder / "Caddyfile"
        file.write_text(here + self.files()[self.main_file()])
        caddy = [self.program, "run", "--config", str(file), "--adapter", "caddyfile"]
        self._spawn(["env", f"HOME={self.folder}", *caddy])
        self._wait_for_port()


PROXIES: dict[str, type[Proxy]] = {"nginx": Nginx, "apache": Apache, "caddy": Caddy}
