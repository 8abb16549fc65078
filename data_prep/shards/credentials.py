"""What stores answer where credentials are missing, wrong or expired: trying again does not help, setting them does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

TO_SET = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (with AWS_SESSION_TOKEN for temporary ones) or AWS_PROFILE; after "
    "`aws sso login`, where that is used; for a public bucket FSSPEC_S3_ANON=true",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`; for a public bucket "
    "FSSPEC_GS_TOKEN=anon",
    "abfs": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or "
    "AZURE_STORAGE_SAS_TOKEN",
    "hf": "HF_TOKEN, or run `hf auth login`",
}
"""Protocol -> what to set."""
TO_SET |= {"s3a": TO_SET["s3"], "gcs": TO_SET["gs"], "az": TO_SET["abfs"], "adl": TO_SET["abfs"], "abfss": TO_SET["abfs"]}
_KINDS = re.compile(
    r"Credential|SSOToken|TokenRetrieval|RefreshError|ClientAuthentication|GatedRepo|UnauthorizedSSO|NoAuth|Unauthori[sz]ed"
)
"""Names of the errors of botocore, google-auth, azure-identity and huggingface_hub."""
_CODES = re.compile(
    r"\b(?:ExpiredToken(?:Exception)?|RequestExpired|TokenRefreshRequired|InvalidAccessKeyId|SignatureDoesNotMatch|InvalidToken|"
    r"InvalidClientTokenId|UnrecognizedClientException|AuthFailure|AuthenticationFailed|AccessDenied|MissingAuthenticationToken|"
    r"(?:token|credentials?) (?:has |have |is |are |included in the request is )?(?:expired|invalid)|"
    r"Unable to locate credentials|Anonymous caller|invalid_grant)\b",
    re.IGNORECASE,
)
"""What their messages hold."""


def hint(error: BaseException, url: str) -> str | None:
    """What to do where an error, or one that it came of, is about credentials or rights; None for other errors.

    S3 answers a HEAD with an expired or wrong token by "400 Bad Request" without a body: that is taken for it, too.
    """
    protocol = url.split("::")[-1].partition("://")[0]
    for one in _causes(error):
        told = isinstance(one, PermissionError) or _KINDS.search(type(one).__name__) or _CODES.search(str(one))
        if told or _refused(one, bad_request=protocol.startswith("s3")):
            to_set = TO_SET.get(protocol, "those of this store")
            return f"no right to read it, or credentials that are missing, wrong or expired ({_said(one)}). Set {to_set}."
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in seen:
        seen.append(current)
        yield current
        current = current.__cause__ or current.__context__


def _refused(error: BaseException, bad_request: bool) -> bool:
    """Whether a server says 401, 403 or, where that means the same, 400: in the error's own fields, or in words."""
    response: Any = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    status = getattr(error, "status", None) or getattr(error, "code", None) or getattr(response, "status_code", None)
    if str(code) in ("401", "403") or status in (401, 403) or "Forbidden" in str(error):
        return True
    return bad_request and (str(code) == "400" or "Bad Request" in str(error))


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:300]}"
