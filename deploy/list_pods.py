"""Print the pods that a RayService describes, for a validator that knows no resource of Ray's."""

import sys

import yaml


def main() -> None:
    """Read a RayService from stdin."""
    cluster = yaml.safe_load(sys.stdin)["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [{"apiVersion": "v1", "kind": "Pod", **group["template"]} for group in groups]
    for number, pod in enumerate(pods):
        pod["metadata"]["name"] = f"pod-{number}"
    yaml.safe_dump_all(pods, sys.stdout)


if __name__ == "__main__":
    main()
