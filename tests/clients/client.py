"""A client of the Python service, as the Orchestrator has it.

It calls the RPCs with the stubs that PYTHONPATH has: those of the old proto, or
of newer fleets. It prints one line of JSON for each answer.

    client.py HOST:PORT submit REQUEST | review REQUEST | status ID | health | jobs
"""

import json
import sys

import grpc
import ray_executor_pb2 as pb
import ray_executor_pb2_grpc as rpc
from google.protobuf import json_format


def main(address: str, what: str, argument: str = "") -> None:
    with grpc.insecure_channel(address) as channel:
        stub = rpc.RayExecutorServiceStub(channel)
        calls = {
            "submit": lambda: stub.ExecuteDeliberation(
                json_format.Parse(argument, pb.ExecuteDeliberationRequest()), timeout=10
            ),
            "review": lambda: stub.ExecuteBacklogReviewDeliberation(
                json_format.Parse(argument, pb.ExecuteBacklogReviewDeliberationRequest()),
                timeout=10,
            ),
            "status": lambda: stub.GetDeliberationStatus(
                pb.GetDeliberationStatusRequest(deliberation_id=argument), timeout=10
            ),
            "health": lambda: stub.GetStatus(pb.GetStatusRequest(include_stats=True), timeout=10),
            "jobs": lambda: stub.GetActiveJobs(pb.GetActiveJobsRequest(), timeout=10),
        }
        try:
            reply = calls[what]()
        except grpc.RpcError as error:
            print(json.dumps({"code": error.code().name, "details": error.details()}))
            return
        answer = json_format.MessageToDict(
            reply, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        if what == "health":
            answer["has_stats"] = reply.HasField("stats")
        print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
