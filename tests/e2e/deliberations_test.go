package e2e_test

import "testing"

// TestDeliberations runs what shares the system without disturbing others, all
// at once. The tests of restart_test.go come after.
func TestDeliberations(t *testing.T) {
	for _, one := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"submitted before there was a ray", submittedBeforeThereWasARay},
		{"the worker needs no internet", workerNeedsNoInternet},
		{"three agents complete", threeAgentsComplete},
		{"one agent fails", oneAgentFails},
		{"all agents fail", allAgentsFail},
		{"empty content is a failure", emptyContentIsAFailure},
		{"retries", retries},
		{"no retries where none are wanted", noRetriesWhereNoneAreWanted},
		{"a model server that starts late", aModelServerThatStartsLate},
		{"503 is waited for", unavailableIsWaitedFor},
		{"timeout", timeout},
		{"timeout with a proposal completes", timeoutWithAProposalCompletes},
		{"templates and models", templatesAndModels},
		{"large results come whole", largeResultsComeWhole},
		{"cancel while running", cancelWhileRunning},
		{"cancel while queued", cancelWhileQueued},
		{"cancel after the end changes nothing", cancelAfterTheEndChangesNothing},
		{"unknown id", unknownID},
		{"the same event is the same deliberation", theSameEventIsTheSameDeliberation},
		{"fifty at once are one deliberation", fiftyAtOnceAreOneDeliberation},
		{"the same id for another request is refused", theSameIDForAnotherRequestIsRefused},
		{"bad requests are refused", badRequestsAreRefused},
		{"two replicas share the load", twoReplicasShareTheLoad},
		{"two listeners hear each end once", twoListenersHearEachEndOnce},
		{"the sink is sent each end", theSinkIsSentEachEnd},
	} {
		t.Run(one.name, func(t *testing.T) {
			t.Parallel()
			one.run(t)
		})
	}
}
