-- Procedures: none, CLIF tells ventilation by device and mode.
-- Inputs:  none
-- Output:  as icu/procedureevents, empty
SELECT NULL::BIGINT AS stay_id, NULL::BIGINT AS itemid, NULL::TIMESTAMP AS starttime,
    NULL::TIMESTAMP AS endtime
WHERE FALSE
