"""A conversation with a real server through `websockets`, the WebSocket library of most Python programs.

Tokens are signed here too, so nothing of the server's own code takes part. Ends with status 0 when every promise was
kept; otherwise says which not.

Variables: REALTIME_URL (ws://.../v1), REALTIME_SECRET (Base64, of the HS256 key), REALTIME_API_KEY, REALTIME_PID (told
to end, at the end).
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import signal
import sys
import time
import traceback
import urllib.request

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

URL = os.environ["REALTIME_URL"]
HTTP = "http" + URL.removeprefix("ws").removesuffix("/v1")
PATIENCE = 20
ROOM = {"presence.den": {"subscribe": True, "messages": {"chat": {"publish": True, "echo": True}}}}


def token(**claims):
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    claims = {"exp": int(time.time()) + 600, "scope": "connect", **claims}
    text = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    key = base64.b64decode(os.environ["REALTIME_SECRET"])
    return (text + b"." + part(hmac.digest(key, text, hashlib.sha256))).decode()


class Client:
    """A connection whose messages are read one after the other."""

    @classmethod
    async def connected(cls, compression="deflate", **claims):
        self = cls()
        self.socket = await connect(f"{URL}?token={token(**claims)}", compression=compression, open_timeout=PATIENCE)
        self.welcome = await self.next("hotsock.connected")
        return self

    async def next(self, event):
        frame = await asyncio.wait_for(self.socket.recv(), PATIENCE)
        assert isinstance(frame, str), "R-JSON-1: text frames only"
        message = json.loads(frame)
        assert message["event"] == event, message
        return message

    async def send(self, **message):
        await self.socket.send(json.dumps(message))

    async def settled(self):
        """Everything sent so far is processed, and nothing else came."""
        await self.send(event="hotsock.ping")
        await self.next("hotsock.pong")

    async def refused(self, code):
        message = await self.next("hotsock.error")
        assert message["error"]["code"] == code, message

    async def subscribed(self, channel):
        await self.send(event="hotsock.subscribe", channel=channel)
        return await self.next("hotsock.subscribed")

    async def closed(self):
        """Code and reason with which the server closes."""
        try:
            while True:
                await asyncio.wait_for(self.socket.recv(), PATIENCE)
        except ConnectionClosed as end:
            assert end.rcvd is not None, "the connection was cut without a close frame"
            return end.rcvd.code, end.rcvd.reason


async def refusal(text):
    try:
        await connect(f"{URL}?token={text}", open_timeout=PATIENCE)
    except InvalidStatus as refused:
        return refused.response.status_code
    raise AssertionError("the token was accepted")


async def a_connection_and_its_refusals():
    """Scenarios 1, 2; R-CONN-4, R-CONN-6, R-CONN-7, R-CONN-8"""
    ana = await Client.connected(uid="ana", umd={"role": "host"})
    assert ana.welcome["meta"] == {"uid": "ana", "umd": {"role": "host"}}
    assert ana.socket.subprotocol is None
    await ana.socket.close()
    assert ana.socket.close_code == 1000
    assert await refusal("nonsense") == 401
    assert await refusal(token(exp=int(time.time()) - 1)) == 401
    assert await refusal(token(scope="umd")) == 403


async def presence_with_two_tabs():
    """Scenario 13; R-PRES-7, R-PRES-9, R-PRES-12"""
    ana, ben, tab = [await Client.connected(uid=uid, channels=ROOM) for uid in ("ana", "ben", "ben")]
    await ana.subscribed("presence.den")
    await ben.subscribed("presence.den")
    added = await ana.next("hotsock.memberAdded")
    assert [m["uid"] for m in added["data"]["members"]] == ["ana", "ben"]
    await tab.subscribed("presence.den")
    await tab.socket.close()
    await ana.settled()
    await ben.socket.close()
    removed = await ana.next("hotsock.memberRemoved")
    assert removed["data"] == {"member": {"uid": "ben", "umd": None}, "members": [{"uid": "ana", "umd": None}]}
    await ana.socket.close()


async def everyone_sees_the_same_order():
    """Scenario 23; R-DLV-1, R-DLV-5, R-DLV-6"""
    speak, listen = {"board": {"messages": {"tick": {"broadcast": True}}}}, {"board": {"subscribe": True}}
    publishers = [await Client.connected(uid=f"p{n}", channels=speak) for n in range(5)]
    compression = ["deflate", None] * 5
    readers = [await Client.connected(how, uid=f"r{n}", channels=listen) for n, how in enumerate(compression)]
    for reader in readers:
        await reader.subscribed("board")

    async def publish(client):
        for n in range(40):
            await client.send(event="tick", channel="board", data=n)
        await client.settled()

    async def read(client):
        return [await client.next("tick") for _ in range(200)]

    seen, *_ = await asyncio.gather(asyncio.gather(*map(read, readers)), *map(publish, publishers))
    ids = [message["id"] for message in seen[0]]
    assert ids == sorted(set(ids)), "ids rise strictly"
    assert all(other == seen[0] for other in seen)
    for n in range(5):
        assert [m["data"] for m in seen[0] if m["meta"]["uid"] == f"p{n}"] == list(range(40))
    for client in publishers + readers:
        await client.socket.close()


async def deduplication_and_eager_ids():
    """Scenario 22; R-SRV-12, R-SRV-13, R-SRV-15"""
    ana = await Client.connected(uid="ana", channels={"board.*": {"subscribe": True}})
    await ana.subscribed("board.1")
    await ana.subscribed("board.2")

    def publish(channel):
        body = {"channel": channel, "event": "price", "deduplicationId": "px-1", "eagerIdGeneration": True}
        headers = {"Authorization": f"Bearer {os.environ['REALTIME_API_KEY']}"}
        request = urllib.request.Request(f"{HTTP}/publish", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            assert answer.status == 202
            return json.load(answer)["id"]

    ids = [await asyncio.to_thread(publish, channel) for channel in ("board.1", "board.1", "board.1", "board.2")]
    assert len(set(ids)) == 4
    assert (await ana.next("price"))["id"] == ids[0]
    assert (await ana.next("price"))["id"] == ids[3]
    await ana.settled()
    await ana.socket.close()


async def closes():
    """R-CONN-29, R-LIVE-7, R-LIVE-10, R-ERR-5"""
    ana = await Client.connected(uid="ana")
    await ana.socket.send("[]")
    await ana.refused("INVALID_MESSAGE")
    await (await ana.socket.ping())
    await ana.socket.send(b"binary")
    assert (await ana.closed())[0] == 1003
    ana = await Client.connected(uid="ana")
    # Not text, although the frame says so.
    await ana.socket.send(b"\xff\xfe", text=True)
    assert (await ana.closed())[0] == 1007
    late = await Client.connected(uid="ana", heartbeatTimeout=5)
    assert await late.closed() == (1001, "Heartbeat timeout")


async def the_server_ends():
    """R-CONN-30"""
    clients = [await Client.connected(uid=f"user-{n}") for n in range(3)]
    os.kill(int(os.environ["REALTIME_PID"]), signal.SIGTERM)
    for client in clients:
        assert (await client.closed())[0] == 1012


SCENES = [
    a_connection_and_its_refusals,
    presence_with_two_tabs,
    everyone_sees_the_same_order,
    deduplication_and_eager_ids,
    closes,
    the_server_ends,
]


async def main():
    for scene in SCENES:
        name = f"{scene.__name__.replace('_', ' ')} ({scene.__doc__})"
        try:
            await scene()
        except Exception:
            traceback.print_exc()
            sys.exit(f"BROKEN: {name}")
        print(f"kept: {name}", flush=True)


asyncio.run(main())
