"""MiniStack with the one action of Auto Scaling that it lacks and that a fleet of real hosts needs.

Everything else is MiniStack's own. The fleet starts this file with the interpreter of the private virtual environment.
"""

from ministack.services import autoscaling


def terminate_instance(parameters):
    """TerminateInstanceInAutoScalingGroup: lets one instance go, and replaces it unless the capacity shrinks."""
    wanted = autoscaling._p(parameters, "InstanceId")
    for name, group in autoscaling._asgs.items():
        for instance in group["Instances"]:
            if instance["InstanceId"] != wanted:
                continue
            if autoscaling._p(parameters, "ShouldDecrementDesiredCapacity") == "true":
                if group["DesiredCapacity"] <= group["MinSize"]:
                    return autoscaling._error(
                        "ValidationError", "Currently, desiredSize equals minSize. Terminating instance without replacement"
                        " will violate group's min size constraint.")
                group["DesiredCapacity"] -= 1
            group["Instances"].remove(instance)
            autoscaling._reconcile_instances(group)
            now = autoscaling.now_iso()
            activity = (
                f"<ActivityId>{autoscaling.new_uuid()}</ActivityId><AutoScalingGroupName>{autoscaling.escape(name)}</AutoScalingGroupName>"
                f"<Description>Terminating EC2 instance: {autoscaling.escape(wanted)}</Description><Cause>a user request</Cause>"
                f"<StartTime>{now}</StartTime><StatusCode>InProgress</StatusCode><Progress>0</Progress>")
            return autoscaling._xml(
                200, "TerminateInstanceInAutoScalingGroupResponse",
                "<TerminateInstanceInAutoScalingGroupResult>"
                f"<Activity>{activity}</Activity></TerminateInstanceInAutoScalingGroupResult>")
    return autoscaling._error("ValidationError", f"Instance Id not found - No managed instance found for instance ID: {wanted}")


if __name__ == "__main__":
    autoscaling._ACTION_MAP.setdefault("TerminateInstanceInAutoScalingGroup", terminate_instance)
    from ministack.app import main

    main()
