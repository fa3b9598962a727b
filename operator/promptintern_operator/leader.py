"""Leader election by a Lease: of several replicas one works, and the others wait."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp
import structlog
from kubernetes.aio.client import ApiClient, V1Lease, V1LeaseSpec, V1ObjectMeta
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from promptintern_operator.metrics import LEADING
from promptintern_operator.settings import Settings

_log = structlog.get_logger("promptintern.operator")


class Leadership:
    """How long this process may act as the leader: until others may follow who have not heard of it since.

    A process that stood still, or a machine that slept, wakes in the middle of its work, long before it finds that its
    lease is gone.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = float("-inf")

    def renew(self, since: float) -> None:
        """The lease was taken or renewed by a request that began at ``since``, by ``Leadership.now``."""
        self._until = since + self._seconds

    def is_held(self) -> bool:
        """Whether nobody else may be the leader now."""
        return self.now() < self._until

    @staticmethod
    def now() -> float:
        """Seconds, those in which the machine slept too."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class _TimedLeaseLock(LeaseLock):  # type: ignore[misc]
    """A lease whose requests end in time: an API server that hangs must not keep a leader that others replaced."""

    def __init__(
        self, name: str, namespace: str, identity: str, api: ApiClient, seconds: float, leadership: Leadership
    ) -> None:
        super().__init__(name, namespace, identity, api)
        self._seconds = seconds
        self._tenure = leadership

    async def get(self, name: str, namespace: str) -> tuple[bool, LeaderElectionRecord | Exception | None]:
        try:
            async with asyncio.timeout(self._seconds):
                record: tuple[bool, LeaderElectionRecord | Exception | None] = await super().get(name, namespace)
                return record
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return False, ApiException(status=0, reason=str(error) or type(error).__name__)

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        # Not the library's own method, whose request fails its own checks (kubernetes 37).
        lease = V1Lease(metadata=V1ObjectMeta(name=name), spec=self.update_lease(election_record))
        return await self._take(self.api_instance.create_namespaced_lease(namespace, lease))

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        return await self._take(super().update(name, namespace, updated_record))

    async def release(self) -> None:
        """Let another replica follow at once."""
        found, _ = await self.get(self.name, self.namespace)
        if found and self.lease_reference is not None and self.lease_reference.spec.holder_identity == self.identity:
            spec: V1LeaseSpec = self.lease_reference.spec
            spec.holder_identity = None  # others wait for as long as they are told themselves, whatever the lease says
            await self._in_time(
                self.api_instance.replace_namespaced_lease(self.name, self.namespace, self.lease_reference)
            )

    async def _take(self, request: Awaitable[object]) -> bool:
        began = Leadership.now()
        taken = await self._in_time(request)
        if taken:
            self._tenure.renew(began)
        return taken

    async def _in_time(self, request: Awaitable[object]) -> bool:
        try:
            async with asyncio.timeout(self._seconds):
                return bool(await request)
        except (aiohttp.ClientError, OSError, TimeoutError, ApiException):
            return False


async def lead(api: ApiClient, settings: Settings, leadership: Leadership, work: Callable[[], Awaitable[None]]) -> None:
    """Wait to become the leader, then work; returns once ``work`` does, or once the lease is lost.

    A process that returns from here must end: what it started may still be under way.

    Args:
        leadership: Is renewed with the lease.
    """
    lock = _TimedLeaseLock(
        settings.lease_name,
        settings.operator_namespace,
        settings.pod_name,
        api,
        seconds=settings.lease_seconds / 10,
        leadership=leadership,
    )
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def leading() -> None:
        _log.info("leading", lease=settings.lease_name, identity=settings.pod_name)
        LEADING.set(1)
        try:
            await work()
        except Exception as error:  # noqa: BLE001 -- raised below, where somebody waits for it
            ended.set_exception(error)
        else:
            ended.set_result(None)
        finally:
            LEADING.set(0)

    config = Config(
        lock,
        lease_duration=int(settings.lease_seconds),
        renew_deadline=int(settings.lease_seconds / 2),
        retry_period=max(1, int(settings.lease_seconds / 7)),
        onstarted_leading=leading,
        onstopped_leading=None,
    )
    election = asyncio.create_task(LeaderElection(config).run())
    done, _ = await asyncio.wait({election, ended}, return_when=asyncio.FIRST_COMPLETED)
    election.cancel()
    if ended in done:
        await lock.release()
        ended.result()
    else:
        _log.error("the lease was lost; this process ends", lease=settings.lease_name)
        election.result()  # raises what the election failed with, if it did
