"""Check or start a job again on request, because the cause of its refusal or failure was outside its spec."""

from promptintern_api import PromptInternJob
from promptintern_api.contract import ANNOTATION_RETRY, retry_request

from promptintern_operator.plan.draft import StatusDraft
from promptintern_operator.plan.types import Limits, Observed, StartPreflight

_MESSAGE = f"the annotation {ANNOTATION_RETRY} requested another try"


def retry(job: PromptInternJob, observed: Observed, draft: StatusDraft, limits: Limits) -> bool:
    """Handle a new value of the annotation that requests a retry. Return False, because the other steps follow.

    A refused job is checked again. A failed job gets another attempt, which continues its run, and whose failures count
    against new retry budgets. In any other state there is nothing to try again.
    """
    request = retry_request(job.metadata.annotations)
    if request in ("", draft.handled_retry):
        return False
    draft.handled_retry = request
    if draft.is_true("Failed"):
        draft.completion_time = None
        draft.retried_after_attempt = draft.attempts[-1].number if draft.attempts else None
        draft.set_condition("Failed", False, "Retried", _MESSAGE)
        draft.drop_condition("Succeeded")
    elif draft.reason("Accepted") != "Refused":
        return False
    if draft.start_time is None:
        numbers = [check.number for check in observed.preflights]
        if observed.denial is not None and isinstance(observed.denial.action, StartPreflight):
            numbers.append(observed.denial.action.number)  # the denial is about that check, and must not stop the next
        draft.retried_after_check = max(numbers, default=None)
        draft.drop_condition("Accepted")
    return False
