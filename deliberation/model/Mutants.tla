------------------------------- MODULE Mutants -------------------------------
(* Mistakes that one could make. Each stands in for a definition of the model *)
(* in one run of `check`, and the checker must find the promise that it       *)
(* breaks.                                                                    *)
EXTENDS Deliberation

(* No compare-and-set where one is. *)
Always    == TRUE
AlwaysOf(x) == TRUE

(* It is never given up. *)
NeverOf(x) == FALSE

(* The claim does not read what agents came to, nor does the end. *)
Forgetful(w) == [knew |-> Recorded]

(* Acknowledged before the end is written. *)
AckAtOnce(w) == At(w, "ack") \/ At(w, "write")

(* The standing request is not compared. *)
Welcome(c) == "submitted"
Unwelcome(c) == "refused"

(* Who ends it does not look whether an agent has proposed. *)
AlwaysFailed(results, knew) == Done("failed", results, knew)
=============================================================================
