#!/bin/sh
# The first boot, after cfn-init has written the host's files. Its exit status is what the stack's wait condition hears.
set -eu
export AWS_REGION={{ region }} AWS_DEFAULT_REGION={{ region }}
export PORTER_VERSION={{ tool_version }} PORTER_SERVICE_NAME={{ service }} PORTER_ENVIRONMENT={{ environment }}
log=/var/log/porter-boot.log
step='porter_bootstrap'
cause='See /var/log/cloud-init-output.log'

finish() {
  status=$?
  trap - EXIT
  handle=$(cat /etc/porter/wait-handle)
  if [ "$status" -eq 0 ]; then
    # A host that scaling adds later finds the wait condition closed: that is no failure of the host.
    /opt/aws/bin/cfn-signal -s true -r 'the host serves' "$handle" || echo 'porter_bootstrap: the wait condition took no signal' >&2
  else
    /opt/aws/bin/cfn-signal -s false -r "$step failed with status $status. $cause" "$handle" || true
    echo "porter_bootstrap: $step failed with status $status. $cause" >&2
  fi
  exit "$status"
}
trap finish EXIT

step='kernel settings and the container user'
# Kernel settings help under load; a kernel that refuses one of them still serves.
systemctl restart systemd-sysctl || echo 'porter_bootstrap: kernel settings take effect at the next boot' >&2
getent passwd 1001 >/dev/null || useradd --uid 1001 --no-create-home --shell /sbin/nologin porter-docker

step='fetching host-agent'
{{ fetch_agent }}

{% if host_bootstrap %}
step='the output of the ec2_bootstrap hooks'
{{ host_bootstrap }}

{% endif %}
step='host-agent boot'
status=0
"$agent" boot >>"$log" 2>&1 || status=$?
tail -n 100 "$log"
cause=$(tail -n 1 "$log" | cut -c 1-300)
exit "$status"
