"""Publishes with boto3, as a backend does that invokes a function: only the endpoint is another one.

Told by the environment: REALTIME_URL (http), ACCESS_KEY_ID, SECRET_ACCESS_KEY. Ends with 0 only when everything was as with a
real function.
"""

import json
import os

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

URL = os.environ["REALTIME_URL"]
KEY = (os.environ["ACCESS_KEY_ID"], os.environ["SECRET_ACCESS_KEY"])
ARN = "arn:aws:lambda:eu-central-1:123456789012:function:PublishFunction"


def functions(key=KEY, **more):
    return boto3.client(
        "lambda", endpoint_url=URL, region_name="eu-central-1", aws_access_key_id=key[0], aws_secret_access_key=key[1],
        config=Config(retries={"max_attempts": 0}), **more)


def payload(answer):
    return answer["Payload"].read()


def refused(code, invoke):
    try:
        invoke()
    except ClientError as error:
        assert error.response["Error"]["Code"] == code, error.response
        assert error.response["Error"]["Message"], error.response
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403, error.response
    else:
        raise AssertionError(f"not refused with {code}")


publisher = functions()
message = {"channel": "board.1", "event": "price", "data": {"bid": 101.5, "text": "ä"}}

# The result is that of a publish; any name of a function will do, also with a qualifier.
for name in ["PublishFunction", ARN]:
    answer = publisher.invoke(FunctionName=name, Payload=json.dumps(message))
    assert answer["StatusCode"] == 200 and "FunctionError" not in answer, answer
    assert answer["ExecutedVersion"] == "$LATEST", answer
    assert json.loads(payload(answer)) == {"channel": "board.1", "event": "price"}
answer = publisher.invoke(
    FunctionName="PublishFunction", Qualifier="live", InvocationType="RequestResponse",
    Payload=json.dumps({**message, "eagerIdGeneration": True}).encode())
result = json.loads(payload(answer))
assert len(result.pop("id")) == 26 and result == {"channel": "board.1", "event": "price"}

# Nobody awaits a result.
answer = publisher.invoke(FunctionName="PublishFunction", InvocationType="Event", Payload=json.dumps(message))
assert answer["StatusCode"] == 202 and payload(answer) == b"", answer
answer = publisher.invoke(FunctionName="PublishFunction", InvocationType="Event", Payload='{"channel":""}')
assert answer["StatusCode"] == 202 and payload(answer) == b"", answer

# Everything is checked, and nothing is done.
answer = publisher.invoke(
    FunctionName="PublishFunction", InvocationType="DryRun", Payload=json.dumps({**message, "event": "never"}))
assert answer["StatusCode"] == 204 and payload(answer) == b"", answer

# What is wrong with a message is the function's error.
for wrong, code in [('{"event":"price"}', "INVALID_CHANNEL"), ('{"channel":"a","event":"hotsock.ping"}', "INVALID_EVENT"),
                    ("[]", "INVALID_MESSAGE")]:
    answer = publisher.invoke(FunctionName="PublishFunction", Payload=wrong)
    assert answer["StatusCode"] == 200 and answer["FunctionError"] == "Unhandled", (wrong, answer)
    error = json.loads(payload(answer))
    assert set(error) == {"errorType", "errorMessage"} and error["errorType"] == code, error

# Credentials.
invoke = {"FunctionName": "PublishFunction", "Payload": json.dumps({**message, "event": "never"})}
refused("InvalidSignatureException", lambda: functions((KEY[0], "a wrong secret, which is long enough to be one")).invoke(**invoke))
refused("UnrecognizedClientException", lambda: functions(("AKIDNOBODY", KEY[1])).invoke(**invoke))
unsigned = boto3.client("lambda", endpoint_url=URL, region_name="eu-central-1",
                        config=Config(signature_version=__import__("botocore").UNSIGNED, retries={"max_attempts": 0}))
refused("MissingAuthenticationTokenException", lambda: unsigned.invoke(**invoke))
# A session token is not ours, but does no harm: it was signed, too.
answer = functions(aws_session_token="of somebody").invoke(FunctionName="PublishFunction", Payload=json.dumps(message))
assert answer["StatusCode"] == 200 and "FunctionError" not in answer, answer
