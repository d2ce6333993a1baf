---------------------------- MODULE Deliberation ----------------------------
(* The journal's protocol, for one deliberation id: ids share nothing.      *)
(*                                                                          *)
(* Whoever takes a step may wait for as long as it likes before the next    *)
(* one: that is a process that was paused, and a request long on its way.   *)
(* A publish is stored or refused in one step, by the stream's leader; its  *)
(* answer may be lost, and then it is sent again. What the server hands out *)
(* it may hand out again at any time until it is acknowledged, also while   *)
(* whoever had it first is still at work.                                   *)
(*                                                                          *)
(* The code names each action where it carries it out: `Model: Submit`.      *)
EXTENDS Naturals, Sequences, FiniteSets, TLC

CONSTANTS
  Callers,      \* who submit under the id, again until they are answered;
  Strangers,    \* those of them whose request is another one
  Workers,      \* replicas, on any number of clusters
  Agents,
  Cancellers,
  Keepers,
  MaxAttempts,  \* after so many starts that were lost it is given up
  MaxStops,     \* the checker looks at no more than so many orderly stops
  None          \* no result

VARIABLES
  journal,      \* the messages on deliberation.*.*.<id>, as stored
  delivered,    \* the work was handed out before
  stopped,      \* the attempts whose worker noted that it stopped: they were not lost
  acked,        \* the work is acknowledged and never comes again
  due,          \* the deadline is over
  callers, workers, others  \* the state of each

vars == <<journal, delivered, stopped, acked, due, callers, workers, others>>

------------------------------------------------------------------------------
(* The journal *)

IsAny(m)     == TRUE
IsRequest(m) == m.kind = "requested"
IsStart(m)   == m.kind = "started"
IsEnd(m)     == m.kind = "done"

(* The sequence of the last message of a kind; 0 where there is none. *)
Last(is(_)) ==
  LET at == {i \in DOMAIN journal : is(journal[i])}
  IN IF at = {} THEN 0 ELSE CHOOSE i \in at : \A j \in at : j <= i

RecordOf(a) == LET is(m) == m.kind = "agent" /\ m.agent = a IN Last(is)
Recorded    == {a \in Agents : RecordOf(a) > 0}
ResultOf(a) == IF a \in Recorded THEN journal[RecordOf(a)].result ELSE None
Results     == [a \in Agents |-> ResultOf(a)]

Accepted == Last(IsRequest) > 0
Ended    == Last(IsEnd) > 0

Store(m) == journal' = Append(journal, m)

(* What each compare-and-set expects. *)
NothingOfTheId     == Last(IsAny) = 0
NothingButRequest  == Last(IsAny) = Last(IsRequest)
NoStartSince(seq)  == Last(IsStart) = seq
NoRecordOf(a)      == RecordOf(a) = 0
NoEnd              == ~Ended

------------------------------------------------------------------------------
(* Submit *)

Request(c) == IF c \in Strangers THEN "another" ELSE "one"

Submit(c) ==
  /\ callers[c] = "asks"
  /\ IF NothingOfTheId
     THEN /\ Store([kind |-> "requested", request |-> Request(c)])
          /\ \E answer \in {"submitted", "asks"} : callers' = [callers EXCEPT ![c] = answer]
     ELSE /\ callers' = [callers EXCEPT ![c] = "compares"]
          /\ UNCHANGED journal
  /\ UNCHANGED <<delivered, stopped, acked, due, workers, others>>

SameRequest(c) == journal[Last(IsRequest)].request = Request(c)

Answer(c) == IF SameRequest(c) THEN "submitted" ELSE "refused"

AnswerExisting(c) ==
  /\ callers[c] = "compares"
  /\ callers' = [callers EXCEPT ![c] = Answer(c)]
  /\ UNCHANGED <<journal, delivered, stopped, acked, due, workers, others>>

------------------------------------------------------------------------------
(* A worker. `held` has the results in its memory, `sure` the agents whose   *)
(* record it has seen or written, and `seen` those that were recorded when it *)
(* last loaded them: `seen` decides nothing, the promises below refer to it.  *)

Idle == [at |-> "idle", again |-> FALSE, tried |-> 0, start |-> 0, attempt |-> 0,
         held |-> [a \in Agents |-> None], sure |-> {}, seen |-> {}]

At(w, place)   == workers[w].at = place
Now(w, change) == workers' = [workers EXCEPT ![w] = change @@ workers[w]]
Drop(w)        == workers' = [workers EXCEPT ![w] = Idle]
IsOver(w)      == workers' = [workers EXCEPT ![w] = [Idle EXCEPT !.at = "ack"]]
Asking         == [at |-> "ask", start |-> 0, tried |-> 0]
Ending         == [at |-> "write", start |-> 0, tried |-> 0]

Take(w) ==
  /\ Accepted /\ ~acked /\ At(w, "idle")
  /\ Now(w, [at |-> "claim", again |-> delivered])
  /\ delivered' = TRUE
  /\ UNCHANGED <<journal, stopped, acked, due, callers, others>>

Started(w, n) == [kind |-> "started", attempt |-> n, by |-> w]

(* Where an answer is lost, the worker stays and publishes again. *)
StartFirst(w) ==
  /\ At(w, "claim") /\ ~workers[w].again
  /\ IF NothingButRequest
     THEN /\ Store(Started(w, 1))
          /\ Now(w, [attempt |-> 1] @@ Asking) \/ UNCHANGED workers
     ELSE Now(w, [at |-> "look", tried |-> 1]) /\ UNCHANGED journal
  /\ UNCHANGED <<delivered, stopped, acked, due, callers, others>>

LookForEnd(w) ==
  /\ At(w, "look") \/ (At(w, "claim") /\ (workers[w].again \/ due))
  /\ IF Ended THEN IsOver(w) ELSE Now(w, [at |-> "starts"])
  /\ UNCHANGED <<journal, delivered, stopped, acked, due, callers, others>>

AttemptsSeen(seq) == IF seq = 0 THEN 0 ELSE journal[seq].attempt
IsOurs(seq, w, n) == seq > 0 /\ journal[seq].attempt = n /\ journal[seq].by = w

Lost(n)    == Cardinality((1..n) \ stopped)
GivenUp(n) == Lost(n) >= MaxAttempts

LookForStart(w) ==
  /\ At(w, "starts")
  /\ LET last == Last(IsStart)
         n == AttemptsSeen(last)
         ours == IsOurs(last, w, workers[w].tried)
     IN Now(w, [start |-> last] @@
          CASE due           -> [at |-> "load"]
            [] ~due /\ ours  -> [at |-> "load", attempt |-> n]
            [] ~due /\ ~ours -> IF GivenUp(n) THEN [at |-> "load"]
                                ELSE [at |-> "start", attempt |-> n + 1])
  /\ UNCHANGED <<journal, delivered, stopped, acked, due, callers, others>>

StartAgain(w) ==
  /\ At(w, "start")
  /\ IF NoStartSince(workers[w].start)
     THEN /\ Store(Started(w, workers[w].attempt))
          /\ Now(w, [at |-> "load"]) \/ UNCHANGED workers
     ELSE Now(w, [at |-> "whose"]) /\ UNCHANGED journal
  /\ UNCHANGED <<delivered, stopped, acked, due, callers, others>>

(* The recorded start is this worker's own, or it leaves the work. *)
LookWhoStarted(w) ==
  /\ At(w, "whose")
  /\ IF IsOurs(Last(IsStart), w, workers[w].attempt) THEN Now(w, [at |-> "load"]) ELSE Drop(w)
  /\ UNCHANGED <<journal, delivered, stopped, acked, due, callers, others>>

(* The results of a worker once it has loaded those that are recorded. *)
WithRecorded(w) ==
  [held |-> [a \in Agents |-> IF a \in Recorded THEN ResultOf(a) ELSE workers[w].held[a]],
   sure |-> workers[w].sure \cup Recorded, seen |-> Recorded]

(* Only after the claim is recorded: until then another worker may record     *)
(* further agents, and these must not be asked again. Who has claimed asks;   *)
(* a worker without a claim ends it.                                          *)
LoadRecorded(w) ==
  /\ At(w, "load")
  /\ Now(w, WithRecorded(w) @@ IF workers[w].attempt > 0 THEN Asking ELSE Ending)
  /\ UNCHANGED <<journal, delivered, stopped, acked, due, callers, others>>

Ask(w, a) ==
  /\ At(w, "ask") /\ workers[w].held[a] = None
  /\ \E result \in {"proposal", "failure"} :
       Now(w, [held |-> [workers[w].held EXCEPT ![a] = result]])
  /\ UNCHANGED <<journal, delivered, stopped, acked, due, callers, others>>

Record(w, a) ==
  /\ At(w, "ask") /\ workers[w].held[a] /= None /\ a \notin workers[w].sure
  /\ IF NoRecordOf(a)
     THEN /\ Store([kind |-> "agent", agent |-> a, result |-> workers[w].held[a]])
          /\ Now(w, [sure |-> workers[w].sure \cup {a}]) \/ UNCHANGED workers
     ELSE /\ Now(w, [held |-> [workers[w].held EXCEPT ![a] = ResultOf(a)],
                     sure |-> workers[w].sure \cup {a}])
          /\ UNCHANGED journal
  /\ UNCHANGED <<delivered, stopped, acked, due, callers, others>>

(* Another worker may have recorded more since, or something else. *)
BeforeEnd(w) == WithRecorded(w)

LookBeforeEnd(w) ==
  /\ At(w, "ask") /\ (due \/ workers[w].sure = Agents)
  /\ Now(w, Ending @@ BeforeEnd(w))
  /\ UNCHANGED <<journal, delivered, stopped, acked, due, callers, others>>

Proposed(results) == \E a \in Agents : results[a] = "proposal"
Done(how, results, seen) == [kind |-> "done", how |-> how, results |-> results, seen |-> seen]
Outcome(results, seen) ==
  Done(IF Proposed(results) THEN "completed" ELSE "failed", results, seen)

(* Stored or refused, there is an end, so the work is done. *)
End(w) ==
  /\ At(w, "write")
  /\ IF NoEnd
     THEN /\ Store(Outcome(workers[w].held, workers[w].seen))
          /\ IsOver(w) \/ UNCHANGED workers
     ELSE IsOver(w) /\ UNCHANGED journal
  /\ UNCHANGED <<delivered, stopped, acked, due, callers, others>>

MayAck(w) == At(w, "ack")

Ack(w) ==
  /\ MayAck(w)
  /\ acked' = TRUE
  /\ Drop(w)
  /\ UNCHANGED <<journal, delivered, stopped, due, callers, others>>

(* A worker that receives an end or reconnects to NATS reads whether         *)
(* it is over, or another worker has started it since.                       *)
StopAtEnd(w) ==
  /\ ~At(w, "idle") /\ ~At(w, "ack") /\ Ended
  /\ IsOver(w)
  /\ UNCHANGED <<journal, delivered, stopped, acked, due, callers, others>>

StopWhenSuperseded(w) ==
  /\ At(w, "ask") /\ journal[Last(IsStart)].attempt > workers[w].attempt
  /\ Drop(w)
  /\ UNCHANGED <<journal, delivered, stopped, acked, due, callers, others>>

(* An orderly stop is noted, then the work is handed back. *)
HasStarted(w) == workers[w].attempt > 0 /\ (At(w, "ask") \/ At(w, "write"))

HandBack(w) ==
  /\ HasStarted(w) /\ Cardinality(stopped) < MaxStops
  /\ stopped' = stopped \cup {workers[w].attempt}
  /\ Drop(w)
  /\ UNCHANGED <<journal, delivered, acked, due, callers, others>>

------------------------------------------------------------------------------
(* Others who end it: each reads the leader's history, then writes. *)

NotLooked == [looked |-> FALSE]

Look(o) ==
  /\ Accepted /\ ~Ended /\ ~others[o].looked
  /\ others' = [others EXCEPT ![o] = [looked |-> TRUE, results |-> Results, seen |-> Recorded]]
  /\ UNCHANGED <<journal, delivered, stopped, acked, due, callers, workers>>

Write(o, end) ==
  /\ IF NoEnd THEN Store(end) ELSE UNCHANGED journal
  /\ others' = [others EXCEPT ![o] = NotLooked]
  /\ UNCHANGED <<delivered, stopped, acked, due, callers, workers>>

CancelLook(c) == Look(c)
Cancel(c) == others[c].looked /\ Write(c, Done("cancelled", others[c].results, others[c].seen))

KeeperLook(k) == due /\ Look(k)
EndOverdue(k) == others[k].looked /\ Write(k, Outcome(others[k].results, others[k].seen))

------------------------------------------------------------------------------
(* What nobody does, and happens *)

Deadline ==
  /\ Accepted /\ ~due
  /\ due' = TRUE
  /\ UNCHANGED <<journal, delivered, stopped, acked, callers, workers, others>>

(* Another process replaces the worker. It has none of the worker's state. *)
Crash(w) ==
  /\ ~At(w, "idle")
  /\ Drop(w)
  /\ UNCHANGED <<journal, delivered, stopped, acked, due, callers, others>>

------------------------------------------------------------------------------

Init ==
  /\ journal = <<>> /\ delivered = FALSE /\ stopped = {} /\ acked = FALSE /\ due = FALSE
  /\ callers = [c \in Callers |-> "asks"]
  /\ workers = [w \in Workers |-> Idle]
  /\ others = [o \in Cancellers \cup Keepers |-> NotLooked]

Code ==
  \/ \E c \in Callers : Submit(c) \/ AnswerExisting(c)
  \/ \E w \in Workers :
       \/ Take(w) \/ StartFirst(w) \/ LookForEnd(w) \/ LookForStart(w) \/ LoadRecorded(w)
       \/ StartAgain(w) \/ LookWhoStarted(w) \/ LookBeforeEnd(w) \/ End(w) \/ Ack(w)
       \/ StopAtEnd(w) \/ StopWhenSuperseded(w) \/ HandBack(w)
       \/ \E a \in Agents : Ask(w, a) \/ Record(w, a)
  \/ \E c \in Cancellers : CancelLook(c) \/ Cancel(c)
  \/ \E k \in Keepers : KeeperLook(k) \/ EndOverdue(k)

World == Deadline \/ \E w \in Workers : Crash(w)

Next == Code \/ World

(* Only this has to go on: the clock, and a keeper that gets through at times. *)
Fairness ==
  /\ WF_vars(Deadline)
  /\ \A k \in Keepers : WF_vars(KeeperLook(k)) /\ SF_vars(EndOverdue(k))

Spec == Init /\ [][Next]_vars /\ Fairness

------------------------------------------------------------------------------
(* What is promised *)

Count(is(_)) == Cardinality({i \in DOMAIN journal : is(journal[i])})

OneRequest == Count(IsRequest) <= 1
OneEnd     == Count(IsEnd) <= 1
OneRecord  == \A a \in Agents : LET is(m) == m.kind = "agent" /\ m.agent = a IN Count(is) <= 1

(* The attempts are numbered without a gap, and no number is there twice. *)
AttemptsInOrder ==
  LET starts == SelectSeq(journal, IsStart)
  IN /\ Lost(Len(starts)) <= MaxAttempts
     /\ \A i \in DOMAIN starts : starts[i].attempt = i

SubmittedIsStored == \A c \in Callers : callers[c] = "submitted" => Accepted /\ SameRequest(c)
OnlyOthersRefused == \A c \in Callers : callers[c] = "refused" => ~SameRequest(c)

(* A model is asked again only for what was not recorded when the attempt   *)
(* looked: a worker that is paused and one in its place may both ask.       *)
RecordedNotAsked ==
  \A w \in Workers, a \in Agents :
    a \in workers[w].seen => workers[w].held[a] = ResultOf(a)

AckedHasEnd == acked => Ended

(* An end carries what was recorded when it was decided, as it is recorded. *)
TheEnd == journal[Last(IsEnd)]
EndHasRecorded == Ended => \A a \in TheEnd.seen : TheEnd.results[a] = ResultOf(a)
EndIsTrue    == Ended => (TheEnd.how = "completed" => Proposed(TheEnd.results))
                          /\ (TheEnd.how = "failed" => ~Proposed(TheEnd.results))

(* And in time: each accepted deliberation ends. *)
Ends == Accepted ~> Ended

(* Names are interchangeable. *)
Symmetry == Permutations(Workers) \cup Permutations(Agents)
=============================================================================
