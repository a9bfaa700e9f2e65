#!/bin/sh
# One swap. cfn-init writes this file from the stack's template and runs it when cfn-hup sees a new desired state.
# It holds no value of a deployment: the agent reads those from the launch template's metadata.
set -eu
export AWS_REGION={{ region }} AWS_DEFAULT_REGION={{ region }}

{{ fetch_agent }}

exec "$agent" hotswap
