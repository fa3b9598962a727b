"""Leader election with a Lease: one of several replicas works, and the others wait."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import aiohttp
import structlog
from kubernetes.aio.client import (
    ApiClient,
    AuthenticationV1Api,
    V1Lease,
    V1LeaseSpec,
    V1ObjectMeta,
    V1OwnerReference,
    V1SelfSubjectReview,
)
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.leaderelectionrecord import LeaderElectionRecord
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from promptintern_operator.metrics import LEADING
from promptintern_operator.settings import Settings

_log = structlog.get_logger("promptintern.operator")


class Leadership:
    """The period in which this process may act as the leader, because no other replica can hold the lease yet.

    A process that was paused, or whose machine slept, resumes in the middle of its work, long before it notices that it
    has lost the lease.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._until = float("-inf")

    def renew(self, since: float) -> None:
        """Extend the period after a request that began at ``since``, a value of ``now``, took or renewed the lease."""
        self._until = since + self._seconds

    def is_held(self) -> bool:
        """Return whether no other replica can be the leader now."""
        return self.now() < self._until

    @staticmethod
    def now() -> float:
        """Return the current time in seconds, on a clock that keeps running while the machine sleeps."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class _TimedLeaseLock(LeaseLock):  # type: ignore[misc]
    """A lease lock whose requests time out, so that a replaced leader stops even if the API server hangs."""

    def __init__(
        self,
        name: str,
        namespace: str,
        identity: str,
        api: ApiClient,
        seconds: float,
        leadership: Leadership,
        owner: V1OwnerReference | None,
    ) -> None:
        super().__init__(name, namespace, identity, api)
        self._seconds = seconds
        self._leadership = leadership
        self._owners = [owner] if owner else None

    async def get(self, name: str, namespace: str) -> tuple[bool, LeaderElectionRecord | Exception | None]:
        try:
            async with asyncio.timeout(self._seconds):
                record: tuple[bool, LeaderElectionRecord | Exception | None] = await super().get(name, namespace)
                return record
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return False, ApiException(status=0, reason=str(error) or type(error).__name__)

    async def create(self, name: str, namespace: str, election_record: LeaderElectionRecord) -> bool:
        # The inherited method sends a request that fails the library's own validation (kubernetes 37).
        metadata = V1ObjectMeta(name=name, owner_references=self._owners)
        lease = V1Lease(metadata=metadata, spec=self.update_lease(election_record))
        return await self._take(self.api_instance.create_namespaced_lease(namespace, lease))

    async def update(self, name: str, namespace: str, updated_record: LeaderElectionRecord) -> bool:
        if self._owners and self.lease_reference is not None:  # an earlier version created leases without an owner
            self.lease_reference.metadata.owner_references = self._owners
        return await self._take(super().update(name, namespace, updated_record))

    async def release(self) -> None:
        """Release the lease, so that another replica can take over at once."""
        lease_exists, _ = await self.get(self.name, self.namespace)
        if (
            lease_exists
            and self.lease_reference is not None
            and self.lease_reference.spec.holder_identity == self.identity
        ):
            spec: V1LeaseSpec = self.lease_reference.spec
            spec.holder_identity = None  # other replicas wait for their own lease duration, whatever the lease says
            await self._in_time(
                self.api_instance.replace_namespaced_lease(self.name, self.namespace, self.lease_reference)
            )

    async def _take(self, request: Awaitable[object]) -> bool:
        began = Leadership.now()
        taken = await self._in_time(request)
        if taken:
            self._leadership.renew(began)
        return taken

    async def _in_time(self, request: Awaitable[object]) -> bool:
        try:
            async with asyncio.timeout(self._seconds):
                return bool(await request)
        except (aiohttp.ClientError, OSError, TimeoutError, ApiException):
            return False


def owner_of_lease(user_name: str, uid: str, namespace: str) -> V1OwnerReference | None:
    """Return a reference to the ServiceAccount with this user name, or None if there is none in ``namespace``.

    The lease is owned by the operator's ServiceAccount, so that it is deleted when the release is uninstalled.
    """
    prefix = f"system:serviceaccount:{namespace}:"
    if not uid or not user_name.startswith(prefix):
        return None
    return V1OwnerReference(api_version="v1", kind="ServiceAccount", name=user_name.removeprefix(prefix), uid=uid)


async def _find_owner(api: ApiClient, namespace: str, seconds: float) -> V1OwnerReference | None:
    """Ask the API server who this process is. A lease without an owner works as well, so every failure gives None."""
    try:
        async with asyncio.timeout(seconds):
            review = await AuthenticationV1Api(api).create_self_subject_review(V1SelfSubjectReview())
    except (aiohttp.ClientError, OSError, TimeoutError, ApiException) as error:
        _log.warning("the lease gets no owner; it will stay when the release is uninstalled", error=str(error))
        return None
    user = review.status.user_info
    return owner_of_lease(user.username or "", user.uid or "", namespace)


async def lead(api: ApiClient, settings: Settings, leadership: Leadership, work: Callable[[], Awaitable[None]]) -> None:
    """Wait to become the leader, then run ``work``. Return once ``work`` returns or the lease is lost.

    The process must exit after this returns, because requests that it started may still be in flight.

    Args:
        api: The client for the lease.
        settings: The name, namespace and duration of the lease.
        leadership: The period that is extended whenever the lease is renewed.
        work: The coroutine function to run while leading.
    """
    seconds = settings.lease_seconds / 10
    lock = _TimedLeaseLock(
        settings.lease_name,
        settings.operator_namespace,
        settings.pod_name,
        api,
        seconds=seconds,
        leadership=leadership,
        owner=await _find_owner(api, settings.operator_namespace, seconds),
    )
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def leading() -> None:
        _log.info("leading", lease=settings.lease_name, identity=settings.pod_name)
        LEADING.set(1)
        try:
            await work()
        except Exception as error:  # noqa: BLE001 -- raised below, by the future
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
        election.result()  # raises the error of the election, if there was one
