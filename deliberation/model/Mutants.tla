------------------------------- MODULE Mutants -------------------------------
(* Mistakes that one could make. Each replaces a definition of the model      *)
(* in one run of `check`, and the checker must find the promise that it       *)
(* breaks.                                                                    *)
EXTENDS Deliberation

(* No compare-and-set where one is. *)
Always    == TRUE
AlwaysOf(x) == TRUE

(* It is never given up. *)
NeverOf(x) == FALSE

(* The recorded results are not loaded, after the claim or before the end. *)
Forgetful(w) == [seen |-> Recorded]

(* Acknowledged before the end is written. *)
AckAtOnce(w) == At(w, "ack") \/ At(w, "write")

(* The existing request is not compared. *)
Welcome(c) == "submitted"
Unwelcome(c) == "refused"

(* Who ends it does not look whether an agent has proposed. *)
AlwaysFailed(results, seen) == Done("failed", results, seen)
=============================================================================
