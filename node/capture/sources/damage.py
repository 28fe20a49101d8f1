"""DamageFilter: which pictures of a video track are shown, after damage and behind missing ones."""

from typing import TYPE_CHECKING, Any

from node.capture.sources.video_account import VideoAccount
from node.image.h26x.h264 import FrameNumbers

if TYPE_CHECKING:
    from av import Packet, VideoFrame


class DamageFilter:
    """Rejects damaged pictures, and each one after them up to a key frame. Follows the pictures
    through the decoder by numbers, since it returns them later and in another order.

    Args:
        account: counts the damage.
        numbers: follow the packets where some may be missing; None where none can.
        exact: a packet that the container marks is itself damaged.
        follow: pass the numbers, which takes time. Without them only damage is counted.
    """

    def __init__(
        self, account: VideoAccount, numbers: FrameNumbers | None, *, exact: bool, follow: bool
    ) -> None:
        self._account = account
        self._follow = follow
        self._numbers = numbers
        self._exact = exact
        self._waits_for_key = self._follows_damage = False
        self._sent = 0
        self._after_damage: set[object] = set()
        self._rejected: set[object] = set()

    def passes(self, packet: "Packet[Any]") -> bool:
        """Whether to decode a packet."""
        if self._numbers is not None and self._numbers.lost(bytes(packet)):
            self._account.damaged("pictures were lost")
            self._follows_damage = True
        if packet.is_corrupt and self._exact:
            self._account.damaged("a picture is cut off")
            self._follows_damage = True
            return False
        self._sent += 1
        if self._follow:
            packet.opaque = self._sent
        if self._follows_damage and not packet.is_keyframe:
            self._after_damage.add(self._sent)
        self._follows_damage = False
        return True

    def reject(self, reason: str) -> None:
        """Notes that the decoder rejected the last packet. It may return the picture all the same,
        later and unmarked."""
        self._rejected.add(self._sent)
        self._note(reason)

    def shows(self, frame: "VideoFrame") -> bool:
        """Whether a picture that left the decoder is shown."""
        if frame.opaque in self._rejected:
            return False
        if frame.is_corrupt:
            self._note("a picture is damaged")
            return False
        if frame.opaque in self._after_damage:
            self._waits_for_key = True
        if self._waits_for_key and not frame.key_frame:
            self._account.dependent += 1
            return False
        self._waits_for_key = False
        return True

    def _note(self, reason: str) -> None:
        self._account.damaged(reason)
        self._waits_for_key = True
