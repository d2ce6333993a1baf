------------------------------- MODULE Rounds -------------------------------
(* The rounds of one deliberation: turns, and the close of each round.       *)
(*                                                                          *)
(* Deliberation.tla has the claim, the agents' records and the race of ends. *)
(* This model leaves the claim out: any number of workers may run the        *)
(* deliberation at the same time, each paused at any step. Where that keeps  *)
(* the promises, fewer workers do.                                           *)
(*                                                                          *)
(* A turn is recorded once. A close is recorded once, and lists the turns    *)
(* that count. What a round is about is what the close before it lists. The  *)
(* winner is a function of what the last close lists; here it is that list.  *)
EXTENDS Naturals, FiniteSets, TLC

CONSTANTS
  Workers,
  Places,   \* the turns of a round
  Texts,    \* what a model may answer
  Keepers,
  Rounds    \* how many there are

VARIABLES
  turns,    \* recorded turns
  closes,   \* recorded closes
  ends,     \* recorded ends
  workers, keepers

vars == <<turns, closes, ends, workers, keepers>>

------------------------------------------------------------------------------
(* The journal *)

TurnsOf(r)   == {t \in turns : t.round = r}
TurnAt(r, p) == {t \in turns : t.round = r /\ t.place = p}
CloseOf(r)   == {c \in closes : c.round = r}
Closed(r)    == CloseOf(r) /= {}
Counted(r)   == {t \in TurnsOf(r) : \E c \in CloseOf(r) : t.place \in c.places}
LastClosed   == IF \E r \in 1..Rounds : Closed(r)
                THEN CHOOSE r \in 1..Rounds : Closed(r) /\ ~\E q \in (r + 1)..Rounds : Closed(q)
                ELSE 0
Ended        == ends /= {}

(* What each compare-and-set expects. *)
NoTurnAt(r, p) == TurnAt(r, p) = {}
NoCloseOf(r)   == ~Closed(r)
NoEnd          == ~Ended

------------------------------------------------------------------------------
(* A worker. `held` are the turns of its round in memory, `sure` the places   *)
(* whose turn it has seen or written, `about` what the close before lists.    *)
(* `seen` decides nothing; the promises refer to it.                          *)

Idle == [at |-> "idle", round |-> 0, about |-> {}, held |-> {}, sure |-> {}, seen |-> {}]

At(w, place)   == workers[w].at = place
Now(w, change) == workers' = [workers EXCEPT ![w] = change @@ workers[w]]
Drop(w)        == workers' = [workers EXCEPT ![w] = Idle]
Held(w, p)     == {t \in workers[w].held : t.place = p}

Begin(w) ==
  /\ At(w, "idle") /\ ~Ended
  /\ Now(w, [at |-> "round", round |-> 1])
  /\ UNCHANGED <<turns, closes, ends, keepers>>

Places_(ts) == {t.place : t \in ts}

(* What a worker that takes over continues with. *)
RecordedTurns(r) == TurnsOf(r)

(* What the next round is about, or the winner is chosen from. *)
Counts(w, r) == Counted(r)

Next_(r, counted) ==
  [at |-> IF r = Rounds THEN "write" ELSE "round", round |-> IF r = Rounds THEN r ELSE r + 1,
   about |-> counted, held |-> {}, sure |-> {}, seen |-> {}]

LoadRound(w) ==
  /\ At(w, "round")
  /\ LET r == workers[w].round
     IN IF Closed(r) THEN Now(w, Next_(r, Counts(w, r)))
        ELSE Now(w, [at |-> "ask", held |-> RecordedTurns(r), sure |-> Places_(RecordedTurns(r)),
                     seen |-> TurnsOf(r)])
  /\ UNCHANGED <<turns, closes, ends, keepers>>

AskTurn(w, p) ==
  /\ At(w, "ask") /\ Held(w, p) = {}
  /\ \E text \in Texts :
       Now(w, [held |-> workers[w].held \cup
         {[round |-> workers[w].round, place |-> p, about |-> workers[w].about, text |-> text]}])
  /\ UNCHANGED <<turns, closes, ends, keepers>>

(* Where another turn is recorded, that one replaces this worker's. *)
RecordTurn(w, p) ==
  /\ At(w, "ask") /\ Held(w, p) /= {} /\ p \notin workers[w].sure
  /\ LET r == workers[w].round
     IN IF NoTurnAt(r, p)
        THEN /\ turns' = turns \cup Held(w, p)
             /\ Now(w, [sure |-> workers[w].sure \cup {p}]) \/ UNCHANGED workers
        ELSE /\ Now(w, [held |-> (workers[w].held \ Held(w, p)) \cup TurnAt(r, p),
                        sure |-> workers[w].sure \cup {p}])
             /\ UNCHANGED turns
  /\ UNCHANGED <<closes, ends, keepers>>

Listed(w) == workers[w].sure

(* All places are recorded, the round's time is over, or enough are recorded. *)
(* The worker reads the close before it goes on, its own or another one's.    *)
CloseRound(w) ==
  /\ At(w, "ask") /\ Listed(w) /= {}
  /\ IF NoCloseOf(workers[w].round)
     THEN closes' = closes \cup {[round |-> workers[w].round, places |-> Listed(w)]}
     ELSE UNCHANGED closes
  /\ Now(w, [at |-> "round"])
  /\ UNCHANGED <<turns, ends, keepers>>

EndOf(r, counted, seen) == [round |-> r, counted |-> counted, seen |-> seen]

EndRounds(w) ==
  /\ At(w, "write")
  /\ ends' = IF NoEnd THEN ends \cup {EndOf(Rounds, workers[w].about, Rounds)} ELSE ends
  /\ Drop(w)
  /\ UNCHANGED <<turns, closes, keepers>>

Crash(w) ==
  /\ ~At(w, "idle")
  /\ Drop(w)
  /\ UNCHANGED <<turns, closes, ends, keepers>>

------------------------------------------------------------------------------
(* A keeper, at the deadline, which may come at any time. It reads, then writes. *)

NotLooked == [looked |-> FALSE]

KeepersRound == LastClosed

LookAtRounds(k) ==
  /\ ~Ended /\ ~keepers[k].looked
  /\ keepers' = [keepers EXCEPT ![k] =
       [looked |-> TRUE, end |-> EndOf(KeepersRound, Counted(KeepersRound), LastClosed)]]
  /\ UNCHANGED <<turns, closes, ends, workers>>

EndByLastClose(k) ==
  /\ keepers[k].looked
  /\ ends' = IF NoEnd THEN ends \cup {keepers[k].end} ELSE ends
  /\ keepers' = [keepers EXCEPT ![k] = NotLooked]
  /\ UNCHANGED <<turns, closes, workers>>

------------------------------------------------------------------------------

Init ==
  /\ turns = {} /\ closes = {} /\ ends = {}
  /\ workers = [w \in Workers |-> Idle]
  /\ keepers = [k \in Keepers |-> NotLooked]

Code ==
  \/ \E w \in Workers :
       \/ LoadRound(w) \/ CloseRound(w) \/ EndRounds(w)
       \/ \E p \in Places : AskTurn(w, p) \/ RecordTurn(w, p)
  \/ \E k \in Keepers : LookAtRounds(k) \/ EndByLastClose(k)

World == \E w \in Workers : Begin(w) \/ Crash(w)

Next == Code \/ World

------------------------------------------------------------------------------
(* What is promised *)

OneTurn  == \A r \in 1..Rounds, p \in Places : Cardinality(TurnAt(r, p)) <= 1
OneClose == \A r \in 1..Rounds : Cardinality(CloseOf(r)) <= 1
OneEnd   == Cardinality(ends) <= 1

CloseListsRecorded == \A c \in closes : \A p \in c.places : TurnAt(c.round, p) /= {}

(* A round is about what counted in the round before, whoever asks. So a late *)
(* turn changes nothing.                                                      *)
TurnsFollowClose ==
  \A t \in turns : t.about = IF t.round = 1 THEN {} ELSE Counted(t.round - 1)

(* Two workers, or a worker and a keeper that reads the last close, agree. *)
SameWinner == \A e \in ends : e.counted = Counted(e.round)

(* A keeper loses no round that was closed when it looked. *)
LastCloseCounts == \A e \in ends : e.round >= e.seen

TurnNotAskedAgain ==
  \A w \in Workers : \A t \in workers[w].seen : Held(w, t.place) = {t}

Symmetry == Permutations(Workers) \cup Permutations(Places) \cup Permutations(Texts)
=============================================================================
