"""The client against a real HTTP/2 server with mutual TLS that does everything wrong that one can do.

Each test is a defect that was measured in aioapns 4.0, or a rule of Apple's or of RFC 9113.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import socket
import ssl
import uuid
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from push import client as client_module
from push.client import ApnsClient, SendResult
from push.core.notification import Failure, Notification
from tests.support.apns import (
    ApnsStandIn,
    Authority,
    Drop,
    Freeze,
    Garbage,
    GoAway,
    Reply,
    Reset,
    Silence,
    refusal,
)

TOPIC = "com.apple.mgmt.External.18a16429"
EXPIRES = 1_800_000_000


def push(token: bytes | None = None, topic: str = TOPIC) -> Notification:
    return Notification(token or secrets.token_bytes(32), "MAGIC", topic, uuid.uuid4(), EXPIRES)


def pushes(count: int) -> list[Notification]:
    return [push() for _ in range(count)]


def make_client(apns: ApnsStandIn, topic: str = TOPIC, connections: int = 1) -> ApnsClient:
    certificate, key = apns.authority.quick_push_certificate(topic)
    return ApnsClient(certificate, key, apns.url, apns.ca_file, connections)


def run(client: ApnsClient, work: Callable[[ApnsClient], Awaitable[list[SendResult]]]) -> list[SendResult]:
    """Run in a loop of its own; afterwards nothing is left of it: no task, no request, no connection."""

    async def whole() -> list[SendResult]:
        async with client:
            results = await work(client)
            pool = client._pool
            for connection in pool.connections if pool is not None else []:
                assert connection.busy == 0
                assert not connection.conn._waiting
        await asyncio.sleep(0.05)
        assert client.open_connections == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return results

    results = asyncio.run(whole())
    gc.collect()  # a future whose error nobody read would speak up now
    return results


def send(apns: ApnsStandIn, *notifications: Notification, connections: int = 1) -> list[SendResult]:
    return run(make_client(apns, connections=connections), lambda client: client.send(notifications))


def answers(results: list[SendResult]) -> list[str]:
    return [str(result.answer) for result in results]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same machinery, with a second in place of 15."""
    monkeypatch.setattr(client_module, "REPLY_TIME_OUT", 1.0)
    monkeypatch.setattr(client_module, "SILENCE_BEFORE_PING", 0.3)
    monkeypatch.setattr(client_module, "PING_TIME_OUT", 0.3)
    monkeypatch.setattr(client_module, "WATCH_INTERVAL", 0.1)
    monkeypatch.setattr(client_module, "CONNECT_TIME_OUT", 2.0)
    monkeypatch.setattr(client_module, "SEND_DEADLINE", 4.0)


def test_a_push_has_the_topic_magic_token_and_headers_that_apple_asks_for(apns: ApnsStandIn) -> None:
    notification = push(bytes(range(40)))  # no size of a token is assumed
    (result,) = send(apns, notification)
    assert result.answer.status == 200
    assert result.notification is notification
    (seen,) = apns.pushes
    assert apns.violations == []
    assert (seen.method, seen.path) == ("POST", "/3/device/" + bytes(range(40)).hex())
    assert seen.headers["apns-topic"] == TOPIC == seen.client_topic
    assert seen.headers["apns-push-type"] == "mdm"
    assert seen.headers["apns-priority"] == "10"
    assert seen.headers["apns-expiration"] == str(EXPIRES)
    assert seen.headers["apns-id"] == str(notification.apns_id)
    assert seen.body == b'{"mdm":"MAGIC"}'


def test_the_secrets_of_a_notification_are_not_in_its_repr() -> None:
    text = repr(Notification(b"\xab" * 32, "the-magic", TOPIC, uuid.uuid4(), EXPIRES))
    assert "abab" not in text
    assert "the-magic" not in text


def test_results_stand_in_the_order_of_the_notifications(apns: ApnsStandIn) -> None:
    notifications = pushes(50)
    apns.script(notifications[7].token, refusal(410, "Unregistered", timestamp=1, delay=0.2))
    apns.script(notifications[20].token, refusal(400, "BadDeviceToken"))
    results = send(apns, *notifications)
    assert [r.notification for r in results] == notifications
    assert {i: r.answer.reason for i, r in enumerate(results) if r.answer.status != 200} == {
        7: "Unregistered",
        20: "BadDeviceToken",
    }


def test_three_thousand_answers_leave_nothing_behind(apns: ApnsStandIn) -> None:
    async def work(client: ApnsClient) -> list[SendResult]:
        results = await client.send(pushes(3000))
        assert client._pool is not None
        (connection,) = client._pool.connections
        assert connection.busy == 0
        assert connection.requests == {}
        assert connection.request_streams == {}
        assert connection.conn.open_outbound_streams == 0
        assert len(connection.conn._h2.streams) == 0
        return results

    results = run(make_client(apns), work)
    assert answers(results) == ["200"] * 3000
    assert apns.accepted == 1


def test_thousands_of_error_answers_on_one_connection_do_not_stall_it(apns: ApnsStandIn) -> None:
    apns.default = refusal(410, "Unregistered", timestamp=1_700_000_000_000)
    results = send(apns, *pushes(4000))
    assert answers(results) == ["410 Unregistered"] * 4000
    assert results[0].answer.timestamp == datetime.fromtimestamp(1_700_000_000, UTC)
    assert apns.accepted == 1


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(apns_id=False), "200"),
        (Reply(503), "503"),
        (Reply(503, apns_id=False), "503"),
        (refusal(503, "ServiceUnavailable"), "503 ServiceUnavailable"),
        (refusal(500, "InternalServerError"), "500 InternalServerError"),
        (refusal(429, "TooManyRequests"), "429 TooManyRequests"),
        (refusal(400, "BadDeviceToken"), "400 BadDeviceToken"),
        (refusal(400, "BadDeviceToken", apns_id=False), "400 BadDeviceToken"),
        (refusal(400, "DeviceTokenNotForTopic", split=True), "400 DeviceTokenNotForTopic"),
        (refusal(400, "BadTopic"), "400 BadTopic"),
        (refusal(403, "BadCertificate"), "403 BadCertificate"),
        (refusal(404, "BadPath"), "404 BadPath"),
        (refusal(405, "MethodNotAllowed"), "405 MethodNotAllowed"),
        (refusal(410, "ExpiredToken", timestamp=1, split=True), "410 ExpiredToken"),
        (refusal(413, "PayloadTooLarge"), "413 PayloadTooLarge"),
        (Reply(502, b"<html><body>Bad Gateway</body></html>"), "502"),
        (Reply(400, b"{}"), "400"),
        (Reply(400, b"[1, 2]"), "400"),
        (Reply(400, b'{"reason": 7}'), "400"),
        (Reply(400, b'{"reason": "A\\n\\u001b[31mB"}'), "400 A[31mB"),
        (Reply(400, b'{"reason":'), "400"),
        (Reply(400, b"\xff\xfe"), "400"),
        (Reply(500, b"x" * 60_000), "500"),
        (Reply(200, b'{"ok":1}', split=True), "200"),
    ],
)
def test_every_answer_is_a_result(apns: ApnsStandIn, reply: Reply, expected: str) -> None:
    odd, neighbour = push(), push()
    apns.script(odd.token, reply)
    assert answers(send(apns, odd, neighbour)) == [expected, "200"]
    assert apns.accepted == 1, "the connection lived on"


def test_a_reset_stream_fails_alone(apns: ApnsStandIn) -> None:
    odd, neighbour = push(), push()
    apns.script(odd.token, Reset())
    first, second = send(apns, odd, neighbour)
    assert (first.answer.status, first.answer.failure) == (None, Failure.CONNECTION)
    assert "INTERNAL_ERROR" in first.answer.reason
    assert second.answer.status == 200
    assert apns.accepted == 1


def test_a_refused_stream_is_sent_again(apns: ApnsStandIn) -> None:
    notification = push()
    apns.script(notification.token, Reset(7), Reset(7))
    assert answers(send(apns, notification)) == ["200"]
    assert len(apns.pushes_to(notification.token)) == 3


def test_what_is_refused_for_ever_ends_all_the_same(apns: ApnsStandIn) -> None:
    apns.default = Reset(7)
    (result,) = send(apns, push())
    assert "REFUSED_STREAM" in result.answer.reason
    assert len(apns.pushes) == client_module.ATTEMPTS


@pytest.mark.usefixtures("impatient")
def test_an_answer_that_never_comes_is_a_time_out_and_the_connection_is_left(apns: ApnsStandIn) -> None:
    odd = push()
    apns.script(odd.token, Silence())

    async def work(client: ApnsClient) -> list[SendResult]:
        first = await client.send([odd, *pushes(5)])
        return [*first, *await client.send([push()])]

    results = run(make_client(apns), work)
    assert results[0].answer.failure is Failure.TIME_OUT
    assert answers(results[1:]) == ["200"] * 6
    assert apns.accepted == 2, "a connection that loses answers is not used again"
    assert len(apns.pushes_to(odd.token)) == 1, "it may have been processed: the outbox decides"


def test_the_first_push_after_a_silence_goes_with_a_ping(
    apns: ApnsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "STALE", 0.0)
    assert answers(send(apns, push())) == ["200"]
    assert apns.pings == 1
    monkeypatch.setattr(client_module, "STALE", 30.0)
    assert answers(send(apns, push(), push())) == ["200"] * 2
    assert apns.pings == 1, "none on a connection that was heard just now"


def test_an_idle_connection_is_kept_alive_by_the_kernel(apns: ApnsStandIn) -> None:
    async def work(client: ApnsClient) -> list[SendResult]:
        results = await client.send([push()])
        assert client._pool is not None
        (connection,) = client._pool.connections
        assert connection.transport is not None
        raw = connection.transport.get_extra_info("socket")
        assert raw.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        return results

    assert answers(run(make_client(apns), work)) == ["200"]


@pytest.mark.usefixtures("impatient")
def test_a_dead_connection_is_found_by_ping_and_replaced(apns: ApnsStandIn) -> None:
    notifications = pushes(20)
    apns.script(notifications[0].token, Freeze())
    assert answers(send(apns, *notifications)) == ["200"] * 20
    assert apns.accepted == 2


@pytest.mark.usefixtures("impatient")
def test_a_server_that_is_dead_for_ever_ends_in_results(apns: ApnsStandIn) -> None:
    apns.default = Freeze()
    results = send(apns, *pushes(3))
    assert {result.answer.failure for result in results} <= {Failure.CONNECTION, Failure.TIME_OUT}
    assert all(result.answer.status is None for result in results)


@pytest.mark.usefixtures("impatient")
def test_a_slow_server_that_answers_ping_is_waited_for(
    apns: ApnsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "REPLY_TIME_OUT", 3.0)
    apns.default = Reply(delay=1.5)
    assert answers(send(apns, *pushes(50))) == ["200"] * 50
    assert apns.pings >= 1
    assert apns.accepted == 1


@pytest.mark.slow
def test_ten_seconds_of_latency_are_within_the_real_limits(apns: ApnsStandIn) -> None:
    apns.default = Reply(delay=10.0)
    assert answers(send(apns, *pushes(20))) == ["200"] * 20


def test_the_real_limits_end_every_push_within_thirty_seconds() -> None:
    assert client_module.SEND_DEADLINE < 30
    assert client_module.CONNECT_TIME_OUT + client_module.REPLY_TIME_OUT < client_module.SEND_DEADLINE
    assert client_module.REPLY_TIME_OUT > 10


@pytest.mark.usefixtures("impatient")
def test_a_batch_that_cannot_be_done_in_time_says_which_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "REPLY_TIME_OUT", 3.5)
    with ApnsStandIn(max_streams=1) as apns:
        apns.default = Reply(delay=3.0)
        results = send(apns, *pushes(4))
    assert answers(results) == ["200", "no answer in time", "not sent in time", "not sent in time"]


def test_goaway_before_an_answer_moves_the_rest_to_another_connection(apns: ApnsStandIn) -> None:
    notifications = pushes(30)
    apns.script(notifications[10].token, GoAway())
    assert answers(send(apns, *notifications)) == ["200"] * 30
    assert apns.accepted == 2


def test_goaway_lets_the_streams_that_it_counts_be_answered(apns: ApnsStandIn) -> None:
    first, second = push(), push()
    apns.script(first.token, Reply(delay=0.3))
    apns.script(second.token, GoAway(answered=True))
    assert answers(send(apns, first, second)) == ["200", "200"]
    assert len(apns.pushes) == 2, "neither was sent twice"


def test_goaway_again_and_again(apns: ApnsStandIn) -> None:
    apns.default = lambda seen: GoAway(close=True) if seen.stream_id >= 21 else Reply()
    assert answers(send(apns, *pushes(50), connections=2)) == ["200"] * 50


def test_goaway_for_ever_ends_in_results(apns: ApnsStandIn) -> None:
    apns.default = GoAway(reason="Shutdown", close=True)
    results = send(apns, *pushes(3))
    assert {r.answer.failure for r in results} == {Failure.CONNECTION}
    assert all("Shutdown" in r.answer.reason for r in results)


def test_goaway_that_refuses_the_certificate_is_a_refusal(apns: ApnsStandIn) -> None:
    apns.default = GoAway(reason="BadCertificate", close=True)
    assert answers(send(apns, *pushes(3))) == ["403 BadCertificate"] * 3
    assert apns.accepted == 1


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("misdeed", [Drop(), Garbage()])
def test_a_connection_that_breaks_takes_nobody_with_it(apns: ApnsStandIn, misdeed: Drop | Garbage) -> None:
    notifications = pushes(40)
    apns.script(notifications[20].token, misdeed)
    assert answers(send(apns, *notifications)) == ["200"] * 40


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("misdeed", [Drop(), Garbage()])
def test_connections_that_always_break_end_in_results(apns: ApnsStandIn, misdeed: Drop | Garbage) -> None:
    apns.default = misdeed
    results = send(apns, *pushes(3))
    assert {r.answer.failure for r in results} == {Failure.CONNECTION}


def test_an_open_connection_is_used_again_and_a_cut_one_replaced(apns: ApnsStandIn) -> None:
    async def work(client: ApnsClient) -> list[SendResult]:
        first = await client.send(pushes(3))
        second = await client.send(pushes(3))
        assert apns.accepted == 1
        await asyncio.to_thread(apns.cut_connections)
        await asyncio.sleep(0.05)
        return [*first, *second, *await client.send(pushes(3))]

    assert answers(run(make_client(apns), work)) == ["200"] * 9
    assert apns.accepted == 2


def test_an_idle_connection_stays_open_and_is_tried_with_ping(
    apns: ApnsStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "IDLE_BEFORE_PING", 0.2)
    monkeypatch.setattr(client_module, "WATCH_INTERVAL", 0.1)
    monkeypatch.setattr(client_module.ApnsProtocol, "INACTIVITY_TIME", 0.1)

    async def work(client: ApnsClient) -> list[SendResult]:
        await client.send([push()])
        await asyncio.sleep(1.0)
        assert apns.pings >= 2
        return await client.send([push()])

    assert answers(run(make_client(apns), work)) == ["200"]
    assert apns.accepted == 1


def test_a_cancelled_send_hurts_no_neighbour(apns: ApnsStandIn) -> None:
    slow = pushes(5)
    for notification in slow:
        apns.script(notification.token, Reply(delay=30))

    async def work(client: ApnsClient) -> list[SendResult]:
        doomed = asyncio.create_task(client.send(slow))
        neighbours = asyncio.create_task(client.send(pushes(5)))
        await asyncio.to_thread(apns.wait_for_pushes, 10)
        doomed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await doomed
        results = [*await neighbours, *await client.send(pushes(5))]
        assert client._pool is not None
        assert client._pool.connections[0].conn.open_outbound_streams == 0
        return results

    assert answers(run(make_client(apns), work)) == ["200"] * 10
    assert apns.accepted == 1


@pytest.mark.parametrize(
    "stand_in",
    [
        ApnsStandIn(max_streams=1),
        ApnsStandIn(max_streams=7),
        ApnsStandIn(window=5),
        ApnsStandIn(alpn=False),
        ApnsStandIn(tls=ssl.TLSVersion.TLSv1_2),
    ],
    ids=["one stream", "seven streams", "windows of five bytes", "no ALPN", "TLS 1.2"],
)
def test_the_server_sets_the_limits(stand_in: ApnsStandIn) -> None:
    with stand_in as apns:
        assert answers(send(apns, *pushes(60), connections=2)) == ["200"] * 60
        assert apns.violations == []
        assert apns.accepted <= 2


@pytest.mark.usefixtures("impatient")
def test_a_server_that_never_opens_its_window_ends_in_results() -> None:
    with ApnsStandIn(acknowledge=False) as apns:
        assert answers(send(apns, *pushes(10))) == ["200"] * 10
        results = send(apns, *pushes(6000))
    # How many get through before the window is full depends on the machine; that each one ends does not.
    assert len(results) == 6000


def test_connections_are_shared_out_when_one_is_full() -> None:
    with ApnsStandIn(max_streams=10) as apns:
        apns.default = Reply(delay=0.05)
        assert answers(send(apns, *pushes(100), connections=3)) == ["200"] * 100
        assert {seen.connection for seen in apns.pushes} == {1, 2, 3}


# --- no connection ---


@pytest.fixture
def closed_port() -> Iterator[str]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"https://127.0.0.1:{held.getsockname()[1]}"


def test_nobody_listens(apns: ApnsStandIn, closed_port: str) -> None:
    certificate, key = apns.authority.push_certificate(TOPIC)
    client = ApnsClient(certificate, key, closed_port, apns.ca_file)
    results = run(client, lambda client: client.send(pushes(3)))
    assert {r.answer.failure for r in results} == {Failure.CONNECTION}
    assert "refused" in results[0].answer.reason


def test_a_name_that_does_not_exist(apns: ApnsStandIn) -> None:
    certificate, key = apns.authority.push_certificate(TOPIC)
    client = ApnsClient(certificate, key, "https://no-such-host.invalid", apns.ca_file)
    (result,) = run(client, lambda client: client.send([push()]))
    assert result.answer.failure is Failure.CONNECTION


@pytest.mark.usefixtures("impatient")
def test_a_server_that_accepts_and_says_nothing(apns: ApnsStandIn) -> None:
    certificate, key = apns.authority.push_certificate(TOPIC)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        client = ApnsClient(certificate, key, f"https://127.0.0.1:{mute.getsockname()[1]}", apns.ca_file)
        results = run(client, lambda client: client.send(pushes(2)))
    assert {r.answer.failure for r in results} == {Failure.CONNECTION}


@pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_certificate_of_another_ca_is_refused_by_tls(tls: ssl.TLSVersion) -> None:
    with ApnsStandIn(tls=tls) as apns:
        certificate, key = Authority("Somebody else").push_certificate(TOPIC)
        client = ApnsClient(certificate, key, apns.url, apns.ca_file)
        results = run(client, lambda client: client.send(pushes(3)))
        assert {r.answer.failure for r in results} == {Failure.CERTIFICATE_REFUSED}
        assert "unknown ca" in results[0].answer.reason
        assert apns.pushes == []
        assert apns.accepted == 0
        assert apns.refused_handshakes


@pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_expired_certificate_is_refused_by_tls(tls: ssl.TLSVersion) -> None:
    now = datetime.now(UTC)
    with ApnsStandIn(tls=tls) as apns:
        certificate, key = apns.authority.push_certificate(
            TOPIC, not_before=now - timedelta(days=9), not_after=now - timedelta(days=1)
        )
        client = ApnsClient(certificate, key, apns.url, apns.ca_file)
        (result,) = run(client, lambda client: client.send([push()]))
    assert result.answer.failure is Failure.CERTIFICATE_REFUSED
    assert "expired" in result.answer.reason


def test_a_certificate_for_another_topic_is_refused(apns: ApnsStandIn) -> None:
    client = make_client(apns, topic="com.apple.mgmt.External.other")
    (result,) = run(client, lambda client: client.send([push()]))
    assert str(result.answer) == "403 BadCertificate"


def test_a_server_that_we_do_not_trust_gets_nothing(apns: ApnsStandIn, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(Authority("Somebody else").pem)
    certificate, key = apns.authority.push_certificate(TOPIC)
    client = ApnsClient(certificate, key, apns.url, str(other))
    (result,) = run(client, lambda client: client.send([push()]))
    assert result.answer.failure is Failure.SERVER_NOT_TRUSTED
    assert apns.pushes == []


def test_a_key_that_is_not_the_certificate_s(apns: ApnsStandIn) -> None:
    certificate, _key = apns.authority.push_certificate(TOPIC)
    _certificate, key = apns.authority.push_certificate(TOPIC)
    client = ApnsClient(certificate, key, apns.url, apns.ca_file)
    (result,) = run(client, lambda client: client.send([push()]))
    assert result.answer.failure is Failure.UNUSABLE_CERTIFICATE
    assert apns.accepted == 0


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1", "https://"])
def test_the_address_of_apns_is_https(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        ApnsClient(b"", b"", url)


# --- the key ---


def test_the_client_keeps_no_copy_of_the_key(apns: ApnsStandIn) -> None:
    async def work(client: ApnsClient) -> list[SendResult]:
        results = await client.send([push()])
        assert client._credentials is None
        return results

    assert answers(run(make_client(apns), work)) == ["200"]
