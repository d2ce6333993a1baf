package journal_test

import (
	pb "rayexecutor/proto/ray_executor/v1"
)

func endOf(id string) *pb.DeliberationCompleted {
	return &pb.DeliberationCompleted{DeliberationId: id, TaskId: "task-" + id}
}
