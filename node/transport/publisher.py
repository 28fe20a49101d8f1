"""Publisher: the thread that owns the XPUB socket, and everything that touches it."""

import contextlib
import queue
import select
import threading
import time
from pathlib import Path
from typing import Any

import zmq

from node.transport.connections import Allowance, Connection, Connections, idle_first
from node.transport.curve import secured
from node.transport.flood_guard import FloodGuard
from node.transport.retained import Retained
from node.transport.sequencing import Observer, Outgoing, SequenceQuery, Sequencer
from node.transport.socket_thread import SocketThread, WakeUp, bind, not_served
from perception_client.endpoint import keep_alive
from perception_client.messages.codec import encode
from perception_client.messages.kinds import Message

OUTBOX = 64
"""Messages between the threads that make them and the socket. The socket never blocks in live use,
so this fills only when the machine stands still."""
SEND_HIGH_WATER_MARK = 256
"""Messages kept for one slow subscriber before its newest are lost to it (about 0.2 MB)."""
LINGER_MS, _FOR_EVER = 100, -1
"""How long what was handed to the socket may take to get out of it once it is closed."""
LONGEST_TOPIC = 72
"""Bytes of the longest topic; nobody subscribes to a longer one."""
MOST_TOPICS = 256
"""Topics of one subscriber."""
ALLOWANCE = Allowance(messages_s=100, burst=512, bytes_s=64 * 1024, burst_bytes=24 * 1024)
"""Of one subscriber, which sends subscriptions alone: all that it has when it connects."""
_LONGEST_FRAME, _LONGEST_FRAME_WITH_KEYS = 160, 512
"""Bytes that a subscriber may send at once, its handshake too; libzmq closes the connection of who
sends more. CURVE's handshake is longer, and only who is on the allow list gets beyond it."""
_RECEIVE_BUFFER = 16 * 1024
"""The kernel's, for each subscriber: what it may have sent before it is known to send too much."""
_HEARD_A_TURN = 64
"""Subscriptions that are read before the next messages are sent."""
_UNREAD = 1
"""Subscriptions that libzmq takes from one subscriber before they are read. It reads on while more
come: a longer queue is refilled as fast as it is emptied, and has no end."""
_REST_S = 0.005
"""How long nobody is listened to after a turn that was full of subscriptions: the kernel holds back
who sends more."""
_JOINED, _LEFT = b"\1", b"\0"


class Publisher:
    """Broadcasts messages on one endpoint.

    Live, a subscriber that does not keep up loses messages and costs nobody anything. With
    `lossless` its backpressure holds the sender instead, until it reads or goes. Binding happens
    in the constructor, which raises EndpointError.

    observer: called with each message after it was handed to the socket.
    keys: folder of keys, see `node.transport.curve`; None for a socket without keys.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        lossless: bool = False,
        observer: Observer | None = None,
        keys: Path | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._lossless = lossless
        self._observer = observer
        self._keys = keys
        self._outbox: queue.Queue[Outgoing | SequenceQuery] = queue.Queue(OUTBOX)
        self._finishing = threading.Event()
        self._give_up = threading.Event()
        self._retained = Retained()
        self._subscriptions = 0
        self._wake_up = WakeUp()
        self._thread = SocketThread(
            "publish",
            self._publish,
            wake=self._wake_up.wake,
            refuse=lambda error: not_served(endpoint, error),
        )
        self._thread.start()

    @property
    def subscriptions(self) -> int:
        """Topics subscribed to by somebody now."""
        return self._subscriptions

    def send(self, outgoing: Outgoing | SequenceQuery) -> None:
        """Hands a message to the publisher's thread; any thread may.

        Raises what ended that thread, should it have failed (an observer that cannot write).
        """
        while not self._thread.closing.is_set() and not self.offer(outgoing, 0.1):
            pass

    def offer(self, outgoing: Outgoing | SequenceQuery, timeout_s: float) -> bool:
        """As `send`, but gives up; whether the message was taken."""
        self._raise_failure()
        try:
            self._outbox.put(outgoing, timeout=timeout_s)
        except queue.Full:
            return False
        self._wake_up.wake()
        return True

    def wait_for_subscriber(self, stop: threading.Event) -> None:
        """Returns when somebody subscribes, or the stop event is set."""
        while not self._subscriptions and not stop.wait(0.02):
            pass

    def finish(self, stop: threading.Event) -> None:
        """At the end of what is lossless: returns when all has left for its subscribers, however
        slowly they read, or the stop event is set. Raises what ended the publisher's thread."""
        self._finishing.set()
        self._thread.close(0.0)
        while self._thread.is_alive and not stop.is_set():
            self._thread.join(0.05)
        self._raise_failure()

    def close(self, timeout_s: float = 1.0) -> None:
        """Sends what was taken, lets go of the endpoint; after `timeout_s` what is left is lost."""
        self._thread.close(timeout_s)
        self._give_up.set()
        self._thread.join(timeout_s)
        self._wake_up.close()

    def _raise_failure(self) -> None:
        if self._thread.failure is not None:
            raise self._thread.failure

    def _publish(self) -> None:
        with contextlib.ExitStack() as stack:
            context: zmq.Context[Any] = zmq.Context()
            stack.callback(context.destroy, linger=0)  # of sockets that a failure left open
            xpub = context.socket(zmq.XPUB)
            stack.callback(self._let_go, xpub)
            xpub.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER_MARK)
            xpub.setsockopt(zmq.XPUB_VERBOSER, 1)  # each joiner is told, not only a topic's first
            xpub.setsockopt(zmq.XPUB_NODROP, int(self._lossless))
            keep_alive(xpub)
            longest = _LONGEST_FRAME if self._keys is None else _LONGEST_FRAME_WITH_KEYS
            xpub.setsockopt(zmq.MAXMSGSIZE, longest)
            xpub.setsockopt(zmq.RCVBUF, _RECEIVE_BUFFER)
            # With keys one place is taken for good by what libzmq says of who connected.
            xpub.setsockopt(zmq.RCVHWM, _UNREAD if self._keys is None else _UNREAD + 1)
            connections = Connections(context, xpub, "labels", ALLOWANCE, idle_first)
            stack.callback(connections.close)
            guard = FloodGuard(connections)
            stack.callback(guard.close)
            with secured(context, xpub, self._keys, "labels"):
                stack.callback(bind(xpub, self._endpoint))
                self._thread.bound()
                self._serve(xpub, connections, guard)

    def _let_go(self, xpub: "zmq.Socket[Any]") -> None:
        xpub.close(linger=_FOR_EVER if self._finishing.is_set() else LINGER_MS)

    def _serve(self, xpub: "zmq.Socket[Any]", connections: Connections, guard: FloodGuard) -> None:
        sequencer = Sequencer()
        sockets = xpub, connections.events
        listening, resting = select.poll(), select.poll()
        for one in sockets:
            listening.register(int(one.getsockopt(zmq.FD)), select.POLLIN)
        listening.register(self._wake_up.reader, select.POLLIN)
        resting.register(self._wake_up.reader, select.POLLIN)
        rest_until = 0.0
        closing = self._thread.closing
        while not (closing.is_set() and self._outbox.empty()) and not self._give_up.is_set():
            rest_s = rest_until - time.monotonic()
            waits = not (int(xpub.getsockopt(zmq.EVENTS)) & zmq.POLLIN or connections.unread)
            guard.turn_ends()  # zmq.Poller would call libzmq while nobody watches how long it takes
            if rest_s > 0:
                resting.poll(max(1, round(rest_s * 1000)))
            elif waits:
                listening.poll(20 if self._retained.requested else 1000)
            guard.turn_begins()
            self._wake_up.drain()
            if time.monotonic() >= rest_until and self._hear(xpub, connections):
                rest_until = time.monotonic() + _REST_S
            self._retain(xpub, connections)  # before what is newer
            self._send_waiting(xpub, connections, sequencer)
            self._retain(xpub, connections)

    def _send_waiting(
        self, xpub: "zmq.Socket[Any]", connections: Connections, sequencer: Sequencer
    ) -> None:
        for _ in range(OUTBOX):
            if self._give_up.is_set():
                return
            try:
                outgoing = self._outbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(outgoing, SequenceQuery):
                sequencer.answer(outgoing)
                continue
            message = sequencer.finalise(outgoing)
            self._hand_over(xpub, connections, message)
            self._retained.keep(outgoing, message)
            if self._observer is not None:
                self._observer(message)

    def _hand_over(
        self, xpub: "zmq.Socket[Any]", connections: Connections, message: Message
    ) -> None:
        parts = encode(message)
        while not self._give_up.is_set():
            try:
                xpub.send_multipart(parts, zmq.NOBLOCK)
            except zmq.Again:  # lossless only: a subscriber's pipe is full
                self._hear(xpub, connections)
                self._give_up.wait(0.001)
                continue
            return

    def _hear(self, xpub: "zmq.Socket[Any]", connections: Connections) -> bool:
        """Reads who joined and left: a bounded number, so that nobody's flood of subscriptions
        keeps a message from the others. Whether more may wait."""
        connections.look_after()
        more = True
        for _ in range(_HEARD_A_TURN):
            try:
                request = xpub.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                connections.all_heard()
                more = False
                break
            connection = connections.heard(request)
            if connection is not None:
                self._note(request.bytes, connection, connections)
        self._subscriptions = connections.topics
        return more

    def _note(self, request: bytes, connection: Connection, connections: Connections) -> None:
        kind, prefix = request[:1], request[1:]
        if kind == _LEFT:
            connection.topics.discard(prefix)
        elif kind == _JOINED:
            connection.topics.add(prefix)
            if len(prefix) > LONGEST_TOPIC:
                connections.end(connection, f"a topic longer than {LONGEST_TOPIC} bytes")
            elif len(connection.topics) > MOST_TOPICS:
                connections.end(connection, f"more than {MOST_TOPICS} topics")
            else:
                self._retained.request(prefix)
        connection.active = bool(connection.topics)

    def _retain(self, xpub: "zmq.Socket[Any]", connections: Connections) -> None:
        """Sends the newest messages once more where a subscriber joined."""
        for message in self._retained.due(time.monotonic()):
            self._hand_over(xpub, connections, message)
