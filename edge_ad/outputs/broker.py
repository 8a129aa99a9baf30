"""The address of an MQTT broker, with user, password and TLS: the same for outputs and for triggers."""

from __future__ import annotations

import os
import ssl
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_ad.errors import BadInput, require
from edge_ad.outputs.address import bracketed, first_missing, settings_of
from edge_ad.redaction import redact_uri

if TYPE_CHECKING:
    from paho.mqtt.client import Client

WRITTEN = "mqtt://HOST:1883/TOPIC or mqtts://HOST:8883/TOPIC?ca=FILE&cert=FILE&key=FILE"
USER, PASSWORD = "EDGE_AD_MQTT_USER", "EDGE_AD_MQTT_PASSWORD"
PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class Broker:
    """A checked address with a topic; ``files`` are those of TLS, by ca, cert and key, ``flag`` is where it was given."""

    host: str
    port: int
    topic: str
    tls: bool
    files: dict[str, str]
    flag: str

    @property
    def name(self) -> str:
        """The address without files."""
        return f"{'mqtts' if self.tls else 'mqtt'}://{bracketed(self.host)}:{self.port}/{self.topic}"

    def trust(self) -> ssl.SSLContext | None:
        """Return what TLS needs, None without it; BadInput for a file that cannot be used."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.files.get("ca"))
            if "ca" in self.files:
                # An authority made as mosquitto's manual says lacks extensions that Python 3.13 has begun to ask for.
                context.verify_flags &= ~ssl.VERIFY_X509_STRICT
            if "cert" in self.files:
                context.load_cert_chain(self.files["cert"], self.files.get("key"))
        except OSError as error:
            raise BadInput(f"{self.flag} {self.host}: a file of TLS cannot be used: {error}; name PEM files") from error
        return context

    def client(self, context: ssl.SSLContext | None, client_id: str = "") -> Client:
        """Return a client that is not connected, with user and password from the environment."""
        require("paho.mqtt.client", extra="line", needed_by=f"{self.flag} mqtt://")
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2, client_id=client_id)
        if user := os.environ.get(USER):
            client.username_pw_set(user, os.environ.get(PASSWORD))
        if context is not None:
            client.tls_set_context(context)
        return client


def parse_broker(uri: str, flag: str = "--alarm", topic: str = "edge-ad") -> Broker:
    """Check a URI as in ``WRITTEN``, ``topic`` where it has none; BadInput for anything else, and for one with a password."""
    told = f"{flag} {redact_uri(uri, ('ca', 'cert', 'key'))}"
    if "@" in uri.partition("?")[0]:
        raise BadInput(
            f"{told}: a user or password does not belong in an address, which lists and logs show; set {USER} and "
            f"{PASSWORD} in the environment"
        )
    try:
        parts = urllib.parse.urlsplit(uri)
        port = parts.port or PORTS[parts.scheme]
        files = settings_of(parts.query)
    except (ValueError, KeyError) as error:  # whose words repeat parts of the address
        raise BadInput(f"{told} is no broker with a valid port and settings; write {WRITTEN}") from error
    tls, topic = parts.scheme == "mqtts", urllib.parse.unquote(parts.path).strip("/") or topic
    wild = "#" in uri or set("+#\0") & set(topic)
    if not parts.hostname or not topic or wild or set(files) - ({"ca", "cert", "key"} if tls else set()):
        raise BadInput(f"{told} is no broker with a topic: write {WRITTEN}, without wildcards")
    missing = first_missing(files.values())
    if missing is not None or ("key" in files and "cert" not in files):
        what = f"there is no file {missing}" if missing is not None else "key= needs cert="
        raise BadInput(f"{told}: {what}; name PEM files")
    return Broker(parts.hostname, port, topic, tls, files, flag)
